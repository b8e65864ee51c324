"""twins: channels that are a fixed multiple of another, whatever the inputs.

1. Two outputs of a linear operation whose weights and biases are multiples of one another.
2. Behind any other operation two indices stay twins if they are when it runs, by itself, on numbers
   drawn at random, twins in their places: a ReLU keeps positive factors, a sigmoid those of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TypeAlias

import numpy as np
import torch

from graphprune.core.axes import Axis
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Indices, holdings
from graphprune.importance.drawn import DRAWS
from graphprune.importance.known import Known
from graphprune.rules.facts import is_random
from graphprune.rules.readings import Reading, folded, reading

Pairs: TypeAlias = "dict[int, tuple[int, float]]"
"""For an index the one that it is a multiple of, and the factor."""

_ROUNDINGS = 8.0  # of the stored type, by which multiples may differ
_SEED = 0  # of the numbers by which rows are compared


class Twins:
    """Which indices of groups' axes are multiples of others, in every value that holds them.

    Args:
        deps: The analysis.
    """

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._wanted = {group.axis for group in deps.groups}
        self._held: dict[tuple[Value, int, Axis], Pairs] = {}
        self._known = Known(deps, ())
        for op in deps.source.ops:
            read = reading(op)
            if isinstance(read, Reading) and self._is_plain(op, read):
                self._linear(op, read)
            elif self._has_any(op) and not is_random(op) and not deps.source.engine.random(op):
                self._follow(op)

    def axes(self) -> Collection[Axis]:
        """The axes that have twins in some value."""
        return {axis for _, _, axis in self._held}

    def pairs(self, value: Value, number: int, axis: Axis) -> Pairs:
        """The twins of an axis in one dimension of a value."""
        return self._held.get((value, number % len(value.shape), axis), {})

    def places(self, value: Value, number: int) -> Iterator[tuple[Axis, Indices]]:
        """Where each index of an axis lies in a dimension, for axes that own one place for each."""
        held = list(holdings(self._deps.dims[value][number]))
        times = Counter(axis for axis, _, _ in held)
        for axis, positions, owners in held:
            if axis in self._wanted and len(positions) == axis.size and times[axis] == 1:
                at = np.empty(axis.size, dtype=np.int64)
                at[owners] = positions
                yield axis, at

    def _note(self, value: Value, number: int, axis: Axis, pairs: Pairs) -> None:
        if pairs:
            self._held[value, number, axis] = pairs

    def _has_any(self, op: Op) -> bool:
        given = {value for value in op.inputs if value is not None}
        return any(value in given for value, _, _ in self._held)

    @staticmethod
    def _is_plain(op: Op, read: Reading) -> bool:
        weights = (read.weight, read.bias)
        return (
            read.ends
            and not read.product
            and len(op.outputs) == 1
            and all(v is None or (v.is_weight and v.is_readable) for v in weights)
            and bool(read.weight.tensor.is_floating_point())
        )

    # --- linear operations --------------------------------------------------------------------

    def _linear(self, op: Op, read: Reading) -> None:
        """Find outputs whose weights are multiples of one another's."""
        rows, kinds = self._rows(read)
        result = op.outputs[0]
        at = read.output % len(result.shape)
        eps = torch.finfo(read.weight.tensor.dtype).eps
        found = _multiples(rows, kinds, _ROUNDINGS * eps)
        for axis, places in self.places(result, at) if found else ():
            index = {int(place): i for i, place in enumerate(places)}
            pairs = {
                index[one]: (index[other], factor)
                for one, (other, factor) in found.items()
                if one in index and other in index
            }
            self._note(result, at, axis, pairs)

    def _rows(self, read: Reading) -> tuple[torch.Tensor, list[tuple[int, ...]]]:
        """What each output is of the channels that are no one's twins, and which those are."""
        weight = folded(read.weight.tensor.detach(), read.inner, read.groups).double()
        groups, outputs, channels, _ = weight.shape
        number = read.channel % len(read.source.shape)
        of = torch.arange(groups * channels)
        factors = torch.ones(groups * channels, dtype=torch.float64)
        for axis, places in self.places(read.source, number):
            for one, (other, factor) in self.pairs(read.source, number, axis).items():
                of[places[one]], factors[places[one]] = int(places[other]), factor
        weight = weight.cpu() * factors.reshape(groups, 1, channels, 1)
        if groups == 1:
            weight = torch.zeros_like(weight).index_add_(2, of, weight)
        rows = weight.reshape(groups * outputs, -1)
        if read.bias is not None:
            bias = read.bias.tensor.detach().double().cpu().reshape(-1, 1)
            rows = torch.cat([rows, bias.expand(len(rows), 1)], 1)
        which = [tuple(row) for row in of.reshape(groups, channels).tolist()]
        kinds = [which[i // outputs] if groups > 1 else () for i in range(len(rows))]
        return rows, kinds

    # --- other operations ---------------------------------------------------------------------

    def _follow(self, op: Op) -> None:
        """Find out which twins are still twins behind an operation."""
        given = {
            axis: pairs for (value, _, axis), pairs in self._held.items() if value in op.inputs
        }
        targets = [
            (value, number, axis, places)
            for value in op.outputs
            for number in range(len(value.shape))
            for axis, places in self.places(value, number)
            if axis in given
        ]
        runs: list[list[torch.Tensor]] = []
        for seed, scale in DRAWS if targets else ():
            try:
                runs.append(self._known.drawn(op, seed, scale, self._placed, self._whole))
            except (RuntimeError, IndexError, TypeError, ValueError):
                return
        for value, number, axis, places in targets:
            which, tolerance = op.outputs.index(value), self._tolerance(op)
            results = [found[which] for found in runs]
            if any(r.dim() != len(value.shape) for r in results):
                continue
            if any(r.shape[number] != value.shape[number] for r in results):
                continue
            rows = torch.cat(
                [r.double().movedim(number, 0).reshape(r.shape[number], -1) for r in results], 1
            )
            kept = {}
            for one, (other, _) in given[axis].items():
                factor = _factor(rows[places[one]], rows[places[other]], tolerance)
                if factor is not None:
                    kept[one] = (other, factor)
            self._note(value, number, axis, kept)

    def _tolerance(self, op: Op) -> float:
        """By how much multiples may differ, of the largest: the rounding of what is stored."""
        stored = (v.tensor for v in op.inputs if v is not None and v.is_weight)
        types = [t.dtype for t in stored if isinstance(t, torch.Tensor) and t.is_floating_point()]
        return _ROUNDINGS * max(torch.finfo(t).eps for t in (*types, self._known.dtype))

    def _whole(self, value: Value) -> Collection[int]:
        """The dimensions of a value in which every place counts."""
        return [n for n in range(len(value.shape)) if any(True for _ in self.places(value, n))]

    def _placed(self, value: Value, x: torch.Tensor) -> torch.Tensor:
        for number in self._whole(value):
            for axis, places in self.places(value, number):
                for one, (other, factor) in self.pairs(value, number, axis).items():
                    row = x.select(number, int(places[other]))
                    x.select(number, int(places[one])).copy_(row * factor)
        return x


def _factor(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> float | None:
    """The number that one row is the other times; None where there is none, or it is constant."""
    at = int(other.abs().argmax())
    varies = bool((other != other[0]).any()) and bool(
        torch.isfinite(torch.stack([one, other])).all()
    )
    if not varies or float(one[at]) == 0:
        return None
    factor = float(one[at] / other[at])
    far = (one - factor * other).abs() > tolerance * one.abs().max()
    return None if bool(far.any()) else factor


def _multiples(
    rows: torch.Tensor, kinds: list[tuple[int, ...]], tolerance: float
) -> dict[int, tuple[int, float]]:
    """Rows that are others times a factor: for each the first such row of its kind."""
    drawn = torch.randn(
        rows.shape[1], 2, generator=torch.Generator().manual_seed(_SEED), dtype=torch.float64
    )
    scale = rows @ drawn[:, 0]
    lengths = rows.abs().amax(1)
    live = (lengths > 0) & (scale.abs() > tolerance * lengths)
    unit = torch.where(live[:, None], rows, 1.0) / torch.where(live, scale, 1.0)[:, None]
    sums = unit @ drawn[:, 1]
    numbered = {kind: n for n, kind in enumerate(dict.fromkeys(kinds))}
    order = sorted(
        (i for i in range(len(rows)) if live[i]), key=lambda i: (numbered[kinds[i]], float(sums[i]))
    )
    out: dict[int, tuple[int, float]] = {}
    classes: list[int] = []
    for i in order:
        first = classes[-1] if classes else i
        at = int(rows[first].abs().argmax())
        factor = float(rows[i, at] / rows[first, at])
        near = (rows[i] - factor * rows[first]).abs().max() <= tolerance * lengths[i]
        if classes and factor != 0 and kinds[i] == kinds[first] and bool(near):
            out[i] = (first, factor)
        else:
            classes.append(i)
    return out
