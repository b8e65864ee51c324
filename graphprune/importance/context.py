"""What a criterion may look at, and the sums over slices that most criteria are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import nn

from graphprune.core.axes import Axis, Dim, atoms, leaves, length, segments
from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.importance.kernels import Scores, slice_sum, slice_sums
from graphprune.importance.stored import Stored

T = TypeVar("T")

Loss: TypeAlias = Callable[[Any, Any], torch.Tensor]
"""A loss callback: `(output of the model, labels or None) -> scalar`."""

Parts: TypeAlias = "list[list[Scores]]"
"""For each group a list of contributions (one for each weight dimension that holds its axis, or
for each observed activation), each with one number for each index."""

Sums: TypeAlias = "Callable[[torch.Tensor, Sequence[int]], Mapping[int, Scores]]"
"""Scores of the slices of one tensor along the dimensions asked for."""


@dataclass
class Context:
    """What a criterion may look at.

    Attributes:
        deps: The analysis: groups, the graph, and the dimensions of every value.
        model: The caller's module; only ever read. None where there is no module.
        inputs: The inputs that it was captured with.
        batches: Calibration data; empty where the caller gave none.
        loss: The caller's loss, or None: cross-entropy on the labels.
        seed: For whatever is drawn.
        name: Name of the criterion, for messages.
        replay: Turns data into what the graph takes, where that is not what the module takes.
    """

    deps: Dependencies
    model: nn.Module | None = None
    inputs: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    batches: Sequence[Batch] = ()
    loss: Loss | None = None
    seed: int = 0
    name: str = "the criterion"
    replay: Callable[[Sequence[Batch]], Sequence[Batch]] = lambda batches: batches

    def data(self) -> Sequence[Batch]:
        """The calibration data.

        Raises:
            GraphPruneError: There is none; the message shows how to pass it.
        """
        if not self.batches:
            raise GraphPruneError(
                f"importance={self.name!r} needs data: pass data=loader (batches of inputs, or of "
                "(inputs, labels) where it takes gradients)"
            )
        return self.batches

    def network(self) -> nn.Module:
        """The module to run.

        Raises:
            GraphPruneError: The graph did not come from a module.
        """
        if self.model is None:
            raise GraphPruneError(f"importance={self.name!r} needs a torch.nn.Module to run")
        return self.model


def by_slice(
    deps: Dependencies, sums: Sums, tensors: Mapping[Value, torch.Tensor] | None = None
) -> Parts:
    """Score every slice that the indices of each group own.

    Args:
        deps: The analysis.
        sums: Scores the slices of one tensor.
        tensors: What to score for each weight (of the weight's shape), or None for the
            parameters themselves; weights that are left out contribute nothing. Complex numbers
            count by their magnitude.
    """
    parts: Parts = [[] for _ in deps.groups]
    ids = {group.axis: group.id for group in deps.groups}
    stored = Stored(deps)
    for value in deps.source.parameters() if tensors is None else tensors:
        dims = deps.dims[value]
        wanted = [d for d, dim in enumerate(dims) if not ids.keys().isdisjoint(atoms(dim))]
        if not wanted:
            continue
        tensor = stored.numbers(value) if tensors is None else torch.as_tensor(tensors[value])
        found = sums(tensor.abs() if tensor.is_complex() else tensor, wanted)
        for number in wanted:
            scores = found[number]
            if not _plain(scores, value.shape[number]):  # whether finite is asked of the group
                scores = checked(f"{value.name}[{number}]", value.shape[number], scores)
            for axis, owned in spread(dims[number], scores):
                if axis in ids:
                    parts[ids[axis]].append(owned)
    return parts


def spread(dim: Dim, scores: Scores) -> Iterator[tuple[Axis, Scores]]:
    """The sums of a dimension's scores over the positions that each index of each atom owns."""
    factors = leaves(dim)
    if len(factors) == 1 and factors[0].parts is None:
        yield factors[0], scores
        return
    shaped = scores.reshape([factor.size for factor in factors])
    for number, factor in enumerate(factors):
        others = tuple(n for n in range(len(factors)) if n != number)
        owned = shaped.sum(others) if others else scores
        if factor.parts is None:
            yield factor, owned
            continue
        start = 0
        for part in segments(factor):
            stop = start + length(part)
            yield from spread(part, owned[start:stop])
            start = stop


def summing(kind: int) -> Sums:
    """Sums of |w|, w² or w over slices, all dimensions in as few passes as possible."""

    def sums(tensor: torch.Tensor, dims: Sequence[int]) -> Mapping[int, Scores]:
        first = slice_sums(tensor, kind) if any(dim < 2 for dim in dims) else []
        return {dim: first[dim] if dim < 2 else slice_sum(tensor, dim, kind) for dim in dims}

    return sums


def _plain(found: Any, size: int) -> bool:
    return isinstance(found, np.ndarray) and found.dtype == np.float64 and found.shape == (size,)


def checked(where: str, size: int, found: Any, name: str = "") -> Scores:
    """Scores as a float64 array.

    Args:
        where: What they are of.
        size: How many they must be.
        found: What a criterion gave.
        name: The criterion's.

    Raises:
        GraphPruneError: They have another length, or are not finite.
    """
    if isinstance(found, torch.Tensor):
        found = found.detach().cpu().double()
    who = f"importance criterion {name!r}" if name else "the importance criterion"
    wanted = f"{who} must give {size} finite scores for {where}, one for each index"
    try:
        scores = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GraphPruneError(f"{wanted}; it gave {type(found).__name__}") from error
    if scores.shape != (size,):
        raise GraphPruneError(f"{wanted}; it gave shape {scores.shape}")
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        raise GraphPruneError(f"{wanted}; {wrong} of them are infinite or not a number")
    return scores
