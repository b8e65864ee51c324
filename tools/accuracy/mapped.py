"""What the re-implemented methods share: removed channels as linear maps along weight dimensions.

A method picks which indices of each coupled group stay and a square matrix for each group, and this
module applies it: along a dimension that a linear layer reads, or along one that writes the group.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import graphprune
from accuracy.subject import Subject
from graphprune.core.indices import holdings
from graphprune.importance import Context

Array: TypeAlias = npt.NDArray[np.float64]


class Removal:
    """A plan by weights alone with equal fractions, whose weights are to be changed.

    Args:
        subject: The network.
        of: The cost.
        ratio: The share of it to remove.
        importance: A criterion by name, or a function of a `Context`.
    """

    def __init__(
        self, subject: Subject, of: str, ratio: float, importance: str | Callable[..., object]
    ) -> None:
        self.model = subject.model
        self.plan = graphprune.plan(
            subject.model, ratio, of, example_inputs=subject.example, importance=importance,
            allocation="uniform", compensate=False, verify=False,
        )  # fmt: skip
        self.deps = graphprune.analyze(subject.model, subject.example)
        self.weights = {
            name: value.detach().clone()
            for name, value in [*self.model.named_parameters(), *self.model.named_buffers()]
        }

    def repick(self, group: int, kept: npt.NDArray[np.int64]) -> None:
        """Keep other indices of a group."""
        self.plan.groups[group].keep = np.sort(kept)

    def apply(self, maps: Mapping[int, Array], write: Mapping[int, Array] | None = None) -> None:
        """Multiply weights by matrices over a group's indices.

        Args:
            maps: For each group, `index x index`, along the dimensions that read it.
            write: The same, along those that write it.
        """
        for group in self.deps.groups:
            for member in group.members:
                reads = member.dim >= 1 and self.reader(member.weight.name)
                matrix = (maps if reads else (write or {})).get(group.id)
                if matrix is not None:
                    self._multiply(group.id, member.weight.name, member.dim, matrix)

    def reader(self, weight: str) -> bool:
        """Whether a weight belongs to a linear or an ungrouped convolution."""
        owner, _, name = weight.rpartition(".")
        module = self.model.get_submodule(owner)
        plain = isinstance(module, nn.Conv2d) and module.groups == 1
        return name == "weight" and (plain or isinstance(module, nn.Linear))

    def spots(self, group: int, weight: str, dim: int) -> Iterator[npt.NDArray[np.int64]]:
        """Positions of a dimension that one index after the other owns."""
        axis = self.deps.groups[group].axis
        value = next(m.weight for m in self.deps.groups[group].members if m.weight.name == weight)
        for found, positions, owners in holdings(self.deps.dims[value][dim]):
            if found is axis:
                order = np.argsort(owners, kind="stable")
                yield positions[order].reshape(axis.size, -1)

    def _multiply(self, group: int, weight: str, dim: int, matrix: Array) -> None:
        tensor = self.weights[weight].movedim(dim, 0).clone()
        by = torch.from_numpy(matrix).to(tensor.dtype)
        for spots in self.spots(group, weight, dim):
            index = torch.from_numpy(spots)
            tensor[index] = torch.einsum("ij,j...->i...", by, tensor[index])
        self.weights[weight] = tensor.movedim(0, dim).contiguous()

    def result(self) -> nn.Module:
        """The smaller network with the changed weights."""
        whole = copy.deepcopy(self.model)
        state = whole.state_dict()
        state.update(self.weights)
        whole.load_state_dict(state)
        return self.plan.apply(whole)


def by_norm(context: Context) -> list[list[npt.NDArray[np.float64]]]:
    """L2 of what writes each index: rows of weights, not the columns that read them."""
    out: list[list[npt.NDArray[np.float64]]] = []
    for group in context.deps.groups:
        rows = [features(context, group.id)]
        out.append([np.square(rows[0]).sum(1)])
    return out


def features(context: Context, group: int) -> Array:
    """For each index of a group, the weights that compute it, one row."""
    members = context.deps.groups[group].members
    found = [m for m in members if m.dim == 0 and len(m.weight.shape) >= 2] or list(members)
    axis = context.deps.groups[group].axis
    rows: list[Tensor] = []
    for member in found:
        tensor = member.weight.tensor.detach().double().movedim(member.dim, 0)
        for held, positions, owners in holdings(context.deps.dims[member.weight][member.dim]):
            if held is axis:
                order = positions[np.argsort(owners, kind="stable")]
                rows.append(tensor[torch.from_numpy(order)].reshape(axis.size, -1))
    return np.concatenate([row.numpy() for row in rows], axis=1)
