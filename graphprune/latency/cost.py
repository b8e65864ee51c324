"""The time of a forward pass as a function of how many indices each group keeps.

Every operation is measured at a few lengths of each axis it depends on and interpolated between
them; operations of the same shapes are measured once. The lengths are multiples of what the
machine computes at a time, found by a probe: between two such lengths nothing is gained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt
import torch

from graphprune.axes import Axis, Dim, atoms, leaves, length
from graphprune.cost import Counts, Polynomial, monomials
from graphprune.dependencies import Dependencies
from graphprune.frontends.execute import rewritten
from graphprune.graph import Op, Value
from graphprune.importance.context import tracked
from graphprune.indices import kept_length
from graphprune.latency.timing import Timer
from graphprune.memory import VIEWS
from graphprune.passes.narrow import attributes

_FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)
_STEPS = (16, 8, 4)
_PROBED = 4  # kinds of operations that are probed for the steps of the staircase
_MOST_AXES = 2  # that a table has; more are scaled together

Array = npt.NDArray[np.float64]


@dataclass
class _Table:
    """Seconds at lengths of one or two axes, interpolated between them."""

    axes: tuple[int, ...]
    grid: tuple[Array, ...]
    seconds: Array

    def __call__(self, lengths: Sequence[float]) -> float:
        values = self.seconds
        for points, wanted in zip(self.grid, lengths, strict=True):
            if len(points) == 1:
                values = values[0]
                continue
            at = int(np.clip(np.searchsorted(points, wanted) - 1, 0, len(points) - 2))
            share = (wanted - points[at]) / (points[at + 1] - points[at])
            values = values[at] + min(max(share, 0.0), 1.0) * (values[at + 1] - values[at])
        return float(values)


class Latency:
    """Seconds of a forward pass: the sum of its operations' measured times.

    Args:
        deps: The analysis.
        timer: Measures, or remembers.

    Attributes:
        step: What lengths should be multiples of on this machine.
        constant: Seconds that no choice changes.
    """

    def __init__(self, deps: Dependencies, timer: Timer | None = None) -> None:
        self._deps = deps
        self._timer = timer or Timer()
        self._ids = {group.axis: group.id for group in deps.groups}
        self._leaves: dict[Axis, int] = {}
        self._lengths: list[Polynomial] = []
        self._tables: dict[tuple[int, ...], _Table] = {}
        self.constant = 0.0
        ops = [op for op in deps.source.ops if _name(op) not in VIEWS]
        self.step = max(map(self._probe, self._heaviest(ops)), default=1)
        for op in tracked(ops, "measuring this machine", len(ops)):
            self._add(op)
        self._timer.save()
        self._touching: list[list[_Table]] = [[] for _ in deps.groups]
        for table in self._tables.values():
            for group in sorted({g for leaf in table.axes for g in self._groups[leaf]}):
                self._touching[group].append(table)

    @property
    def _groups(self) -> list[list[int]]:
        """For each leaf the groups that its length depends on."""
        return [
            sorted({self._ids[a] for a in atoms((leaf,)) if a in self._ids})
            for leaf in self._leaves
        ]

    def __call__(self, counts: Counts) -> float:
        """Seconds when group i keeps `counts[i]` indices."""
        return self.constant + sum(self._at(table, counts) for table in self._tables.values())

    def change(self, counts: Counts, group: int, to: float) -> float:
        """By how much the time changes when one group keeps `to` indices instead."""
        changed = counts.copy()
        changed[group] = to
        tables = self._touching[group]
        return sum(self._at(t, changed) - self._at(t, counts) for t in tables)

    def _at(self, table: _Table, counts: Counts) -> float:
        return table([self._lengths[leaf](counts) for leaf in table.axes])

    def _work(self, op: Op) -> float:
        """Multiply-accumulates, of operations that can become smaller."""
        if not self._free(op):
            return 0.0
        products = (prod(length(dim) for dim in dims) for dims in self._deps.effects[op].macs)
        return float(sum(products))

    def _heaviest(self, ops: Sequence[Op]) -> list[Op]:
        """The most work of each kind: the same operator on weights of the same kernel."""
        found: dict[object, Op] = {}
        for op in ops:
            shapes = [v.shape for v in op.inputs[1:2] if v is not None]
            kind = (op.type, *(shape[2:] for shape in shapes))
            if self._work(op) > (self._work(found[kind]) if kind in found else 0.0):
                found[kind] = op
        return sorted(found.values(), key=self._work)[-_PROBED:]

    def _free(self, op: Op) -> list[Axis]:
        """The leaf factors of an operation's dimensions that can become shorter."""
        values = [v for v in (*op.inputs, *op.outputs) if v is not None]
        found = (leaf for v in values for dim in self._deps.dims[v] for leaf in leaves(dim))
        unique = dict.fromkeys(found)
        return [leaf for leaf in unique if any(axis in self._ids for axis in atoms((leaf,)))]

    def _counts(self, op: Op, fractions: Mapping[Axis, float]) -> dict[Axis, int]:
        """How many indices each axis keeps where leaf factors shrink to fractions."""
        out: dict[Axis, int] = {}
        for leaf, fraction in fractions.items():
            for axis in atoms((leaf,)):
                if axis in self._ids:
                    out[axis] = max(round(axis.size * fraction), 1)
        return out

    def _probe(self, op: Op) -> int:
        """The largest step such that lengths short of a multiple take the multiple's time."""
        axis = max(self._free(op), key=lambda leaf: leaf.size)
        for step in _STEPS:
            top = axis.size // step * step
            if top < 4 * step:
                continue
            whole = self._seconds(op, {axis: top / axis.size})
            short = self._seconds(op, {axis: (top - step // 4 - 1) / axis.size})
            if whole is not None and short is not None and short > whole * 0.99:
                return step
        return 1

    def _add(self, op: Op) -> None:
        free = self._free(op)
        whole = self._seconds(op, {})
        if not free or len(free) > _MOST_AXES or whole is None:
            self.constant += whole or 0.0
            return
        grids = [self._points(leaf.size) for leaf in free]
        shape = tuple(len(points) for points in grids)
        seconds = np.full(shape, whole)
        for place in product(*(range(n) for n in shape)):
            fractions = {
                leaf: points[i] / leaf.size
                for leaf, points, i in zip(free, grids, place, strict=True)
            }
            found = self._seconds(op, fractions)
            seconds[place] = whole if found is None else found
        key = tuple(self._leaf(leaf) for leaf in free)
        if key in self._tables:
            self._tables[key].seconds = self._tables[key].seconds + seconds
        else:
            self._tables[key] = _Table(key, tuple(grids), seconds)

    def _points(self, size: int) -> Array:
        step = self.step if size >= 4 * self.step else 1
        points = {max(round(size * f / step) * step, step) for f in _FRACTIONS if f < 1} | {size}
        return np.array(sorted(p for p in points if p <= size), dtype=np.float64)

    def _leaf(self, leaf: Axis) -> int:
        if leaf not in self._leaves:
            self._leaves[leaf] = len(self._leaves)
            dims: list[list[Dim]] = [[(leaf,)]]
            self._lengths.append(Polynomial(monomials(dims, self._ids), len(self._ids)))
        return self._leaves[leaf]

    def _seconds(self, op: Op, fractions: Mapping[Axis, float]) -> float | None:
        """Time of one operation, or None where it does not run at these lengths."""
        counts = self._counts(op, fractions)
        made: dict[Value, torch.Tensor] = {}
        operands = [None if v is None else self._operand(v, counts, made) for v in op.inputs]
        try:
            call = rewritten(op, attributes(self._deps, op, counts), operands)
            return self._timer.seconds(*call)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return None

    def _operand(
        self, value: Value, counts: Mapping[Axis, int], made: dict[Value, torch.Tensor]
    ) -> torch.Tensor:
        """A tensor of a value's type and narrowed shape; numbers stand in for what is computed."""
        if value not in made:
            shape = [kept_length(dim, counts) for dim in self._deps.dims[value]]
            dtype: torch.dtype = getattr(torch, value.dtype)
            device = next((v.tensor.device for v in self._deps.source.parameters()), "cpu")
            if dtype.is_floating_point:
                made[value] = torch.full(shape, 0.5, dtype=dtype, device=device)
            else:
                made[value] = torch.zeros(shape, dtype=dtype, device=device)
        return made[value]


def _name(op: Op) -> str:
    return op.type.partition(".")[2] or op.type
