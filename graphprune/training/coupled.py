"""The coupled groups of a live model, and which slices of its parameters each index owns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphprune.core.errors import GraphPruneError, OptionError
from graphprune.core.groups import Dependencies, Group
from graphprune.core.indices import holdings
from graphprune.planning import analyzed
from graphprune.training.attached import bare

CHANGED = (
    "{} has other widths than when this method was made (Gradual removes channels for good): "
    "detach() it and make a new one, or use one of the two after the other"
)
"""What is told where something else has pruned the model meanwhile."""


@dataclass(frozen=True)
class Owned:
    """The slices of one parameter, along one dimension, that the indices of a group own.

    Attributes:
        name: The parameter.
        dim: The dimension.
        owners: For each position along it the index that owns it; -1 where none does.
    """

    name: str
    dim: int
    owners: torch.Tensor

    def squares(self, parameter: torch.Tensor, size: int) -> torch.Tensor:
        """Sum of w² over what each of `size` indices owns, a vector; gradients flow."""
        rows = parameter.movedim(self.dim, 0).reshape(parameter.shape[self.dim], -1)
        each = rows.abs().square().sum(1)
        owners = self.owners.to(each.device)
        if bool((owners < 0).any()):
            each, owners = each[owners >= 0], owners[owners >= 0]
        return each.new_zeros(size).index_add(0, owners, each)

    def scale(self, parameter: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        """The parameter, each slice times its owner's factor; slices without one as they are."""
        return parameter * self.spread(factors, parameter.dim(), 1.0).to(parameter.dtype)

    def spread(self, values: torch.Tensor, dims: int, other: float = 0.0) -> torch.Tensor:
        """What each index has, in a shape that broadcasts to the parameter's.

        Args:
            values: A number for each index.
            dims: Dimensions of the parameter.
            other: The number for positions that no index owns.
        """
        owners = self.owners.to(values.device)
        each = torch.where(owners < 0, other, values[owners.clamp(min=0)])
        shape = [1] * dims
        shape[self.dim] = -1
        return each.reshape(shape)


class Coupled:
    """A live model's coupled groups.

    Args:
        model: The model; wrappers (`DistributedDataParallel`, `torch.compile`) are looked through.
        example_inputs: As for `graphprune.analyze`.
        keep: As for `graphprune.analyze`.

    Attributes:
        model: The module, without wrappers.
        deps: The analysis.

    Raises:
        OptionError: The model is no module.
        GraphPruneError: Nothing of it can be pruned.
    """

    def __init__(self, model: nn.Module, example_inputs: Any = None, keep: Any = ()) -> None:
        self.model = bare(model)
        self.deps: Dependencies = analyzed(self.model, example_inputs, keep)
        if not self.deps.groups:
            raise GraphPruneError(
                f"no channel of this {type(self.model).__name__} can be removed: "
                "graphprune.analyze(model).locks gives the reasons"
            )
        self._owned = _owned(self.deps, self.model)

    @property
    def groups(self) -> list[Group]:
        """The groups."""
        return self.deps.groups

    def owned(self, group: Group) -> list[Owned]:
        """All slices that a group's indices own."""
        return self._owned[group.id]

    def parameters(self, group: Group) -> Iterator[tuple[Owned, nn.Parameter]]:
        """Those slices with the parameters that hold them now."""
        for owned in self._owned[group.id]:
            held = self.model.get_parameter(owned.name)
            if held.shape[owned.dim] != len(owned.owners):
                raise GraphPruneError(CHANGED.format(owned.name))
            yield owned, held

    def squares(self, group: Group) -> torch.Tensor:
        """‖w_i‖² of all that each index i of a group owns: a vector, gradients flow."""
        parts = [owned.squares(held, group.size) for owned, held in self.parameters(group)]
        total = parts[0]
        for part in parts[1:]:
            total = total + part.to(total)
        return total

    def width(self, group: Group) -> float:
        """Number of parameters that one index owns."""
        return sum(p.numel() for _, p in self.parameters(group)) / group.size


def _owned(deps: Dependencies, model: nn.Module) -> dict[int, list[Owned]]:
    """For each group, by its id, the slices of trainable parameters that its indices own."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ids = {group.axis: group.id for group in deps.groups}
    found: dict[int, list[Owned]] = {group.id: [] for group in deps.groups}
    for value in deps.source.parameters():
        name = names.get(id(value.tensor))
        if name is None or not value.tensor.is_floating_point():
            continue
        for dim, held in enumerate(deps.dims[value]):
            for axis, positions, indices in holdings(held):
                if axis in ids:
                    owners = torch.full((value.shape[dim],), -1, dtype=torch.int64)
                    owners[torch.tensor(positions)] = torch.tensor(indices)
                    found[ids[axis]].append(Owned(name, dim, owners))
    lacking = [group.name for group in deps.groups if not found[group.id]]
    if lacking:
        raise OptionError(
            f"group {lacking[0]} holds no trainable parameter of the model: leave it out by keep="
        )
    return found
