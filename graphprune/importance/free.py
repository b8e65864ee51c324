"""free: indices whose removal changes nothing, whatever the inputs.

1. Zeros are followed forwards from the weights: a channel that a batch norm multiplies by 0 and
   adds 0 to is 0 behind every activation with f(0) = 0, whatever comes in. What an operation does
   with zeros is asked of the operation itself, not of a table: it runs by itself on numbers drawn
   at random, with zeros where they are known, and what is 0 for all of them is 0.
2. An index is free where every operation that sums over its axis meets a zero there: in what it
   reads, or in the weight that it reads it through.

Nothing here looks at samples: a channel that merely seems dead on a few inputs is not free.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from graphprune.core.axes import Axis, Dim, atoms
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import holdings
from graphprune.engine.run import Run
from graphprune.importance.kernels import Scores
from graphprune.importance.stored import Stored
from graphprune.rules.facts import Reading, gain, is_norm, is_random, products, reading

Mask: TypeAlias = npt.NDArray[np.bool_]

_SCALES = (1.0, -1.0, 30.0, 1e-2)  # of the numbers drawn: of both signs, small and large
_BELOW = 1e-6  # of the mean score, by which free indices sort before others


def free(deps: Dependencies, axes: Collection[Axis] | None = None) -> dict[Axis, Mask]:
    """Which indices can go at no cost.

    Args:
        deps: The analysis.
        axes: The groups' axes to ask for; all of them where not given.

    Returns:
        For each axis that has free indices, which of them are.
    """
    wanted = {group.axis for group in deps.groups if axes is None or group.axis in axes}
    zeros = _Zeros(deps, wanted)
    out = {axis: np.ones(axis.size, dtype=bool) for axis in wanted if zeros.somewhere(axis)}
    ops = [*deps.source.ops, *deps.source.training]
    for op in ops if out else ():
        effect = deps.effects[op]
        for axis in {axis for dim in effect.mixes for axis in atoms(dim)} & out.keys():
            out[axis][:] = False
        for axis in {axis for dim in effect.contracts for axis in atoms(dim)} & out.keys():
            out[axis] &= zeros.summed(op, axis)
    return {axis: mask for axis, mask in out.items() if mask.any()}


def spare(deps: Dependencies) -> dict[Axis, dict[str, Mask]]:
    """Which indices can go at no cost, for which reason."""
    return {axis: {"zero": mask} for axis, mask in free(deps).items()}


def foremost(deps: Dependencies, scores: Sequence[Scores]) -> list[Scores]:
    """Scores by which free indices go before all others, whichever criterion gave them."""
    found = free(deps)
    if not found:
        return list(scores)
    masks = [found.get(group.axis) for group in deps.groups]
    pairs = list(zip(scores, masks, strict=True))
    others = np.concatenate([s if mask is None else s[~mask] for s, mask in pairs])
    least = float(others.min()) if len(others) else 1.0
    below = 0.0 if least > 0 else least - _BELOW * max(float(np.abs(others).mean()), 1e-30)
    return [s if mask is None else np.where(mask, below, s) for s, mask in pairs]


class _Zeros:
    """Slices of values that are zero for every input, by value, dimension and axis."""

    def __init__(self, deps: Dependencies, wanted: set[Axis]) -> None:
        self._deps = deps
        self._wanted = wanted
        self._held: dict[Value, dict[tuple[int, Axis], Mask]] = {}
        self._axes: set[Axis] = set()
        self._stored = Stored(deps)
        tensors = (value.tensor for value in deps.source.weights.values())
        self._device = next((t.device for t in tensors if t is not None), torch.device("cpu"))
        for value in deps.source.weights.values():
            self._weigh(value)
        if self._held:
            for op in deps.source.ops:
                self._follow(op)

    def somewhere(self, axis: Axis) -> bool:
        """Whether any value is known to be zero along an axis."""
        return axis in self._axes

    def _weigh(self, value: Value) -> None:
        """Find the zeros of a weight."""
        if not isinstance(value.tensor, torch.Tensor):
            return
        tensor = self._stored.numbers(value)
        held = {axis for dim in self._deps.dims[value] for axis in atoms(dim)}
        if held & self._wanted and int(tensor.count_nonzero()) < tensor.numel():
            self._note(value, tensor != 0)

    def _note(self, value: Value, live: torch.Tensor) -> None:
        """Keep the slices of a value that hold nothing but zeros."""
        found: dict[tuple[int, Axis], Mask] = {}
        for number, dim in enumerate(self._deps.dims[value]):
            if self._wanted.isdisjoint(atoms(dim)):
                continue
            rows = live.movedim(number, 0).reshape(live.shape[number], -1).any(1)
            for axis, mask in _dead(dim, rows.cpu().numpy()):
                if axis in self._wanted and mask.any():
                    found[number, axis] = mask
        if found:
            self._held[value] = found
            self._axes.update(axis for _, axis in found)

    def _follow(self, op: Op) -> None:
        """Find out which slices of an operation's results are zero."""
        if not self._may_vanish(op):
            return
        live: list[torch.Tensor] | None = None
        for number, scale in enumerate(_SCALES):
            try:
                results = self._drawn(op, number, scale)
            except (RuntimeError, IndexError, TypeError, ValueError):
                return  # nothing is known of what it makes of such numbers
            if any(r.shape != v.shape for r, v in zip(results, op.outputs, strict=True)):
                return
            found = [r != 0 for r in results]
            live = found if live is None else [a | b for a, b in zip(live, found, strict=True)]
        for value, mask in zip(op.outputs, live or (), strict=True):
            self._note(value, mask)

    def _may_vanish(self, op: Op) -> bool:
        """Whether results may be zero: what is only added or taken off does not make them so."""
        given: Sequence[Value | None] = op.inputs
        zeros = {axis for v in given if v in self._held for _, axis in self._held[v]}
        dims = [dim for value in op.outputs for dim in self._deps.dims[value]]
        if zeros.isdisjoint(axis for dim in dims for axis in atoms(dim)):
            return False
        if is_random(op) or self._deps.source.engine.random(op):
            return False
        read = reading(op)
        if isinstance(read, Reading):
            given = [read.source, read.weight]
        elif is_norm(op):
            given = [op.inputs[0], gain(op)]
        return any(value in self._held for value in given)

    def _drawn(self, op: Op, number: int, scale: float) -> list[torch.Tensor]:
        """Results for operands that are drawn, with zeros where they are known.

        Raises:
            RuntimeError: It does not run on them, or what it reads are no such numbers.
        """
        graph = self._deps.source
        weights = (v.tensor for v in op.inputs if v is not None and v.is_weight)
        device = next((t.device for t in weights if t is not None), self._device)
        generator = torch.Generator().manual_seed(number)
        drawn: dict[Value, torch.Tensor] = {}
        for value in op.inputs:
            if value is None or value.is_weight or value in drawn:
                continue
            if not value.dtype.rpartition(".")[2].startswith(("float", "bfloat")):
                raise RuntimeError(f"{value.name} holds {value.dtype}")
            x = torch.randn(value.shape, generator=generator, dtype=torch.float32) * scale
            drawn[value] = self._cleared(value, x).to(device)
        run = Run(graph, lambda weight: weight.tensor, [drawn], dtype=torch.float32, ops=[op])
        run.step(op)
        return [run.values(value)[0] for value in op.outputs]

    def _cleared(self, value: Value, x: torch.Tensor) -> torch.Tensor:
        for (number, axis), mask in self._held.get(value, {}).items():
            for own, positions, owners in holdings(self._deps.dims[value][number]):
                if own is axis:
                    x.index_fill_(number, torch.as_tensor(positions[mask[owners]]), 0.0)
        return x

    def summed(self, op: Op, axis: Axis) -> Mask:
        """Where an operation meets a zero in all of its sums over an axis."""
        out = np.ones(axis.size, dtype=bool)
        pairs = list(self._multiplied(op, axis))
        for operands in pairs or [[(v, d)] for v, d in self._holding(op, axis)]:
            either = np.zeros(axis.size, dtype=bool)
            for value, number in operands:
                either |= self._held.get(value, {}).get((number, axis), False)
            out &= either
        return out

    def _multiplied(self, op: Op, axis: Axis) -> Iterator[list[tuple[Value, int]]]:
        """The two dimensions that meet, for each product that sums over an axis."""
        for product in products(op):
            sides = (product.x, product.x_letters), (product.weight, product.weight_letters)
            met = [
                (value, number)
                for value, letters in sides
                for number, names in enumerate(letters)
                if product.contracted.intersection(names)
                and axis in atoms(self._deps.dims[value][number])
            ]
            if met:
                yield met

    def _holding(self, op: Op, axis: Axis) -> Iterator[tuple[Value, int]]:
        for value in (v for v in op.inputs if v is not None):
            for number, dim in enumerate(self._deps.dims[value]):
                if axis in atoms(dim):
                    yield value, number


def _dead(dim: Dim, live: Mask) -> Iterator[tuple[Axis, Mask]]:
    """For each axis of a dimension, the indices of which no position is live."""
    for axis, positions, owners in holdings(dim):
        counts = np.bincount(owners, weights=live[positions], minlength=axis.size)
        yield axis, counts == 0
