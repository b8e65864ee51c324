"""The time of a forward pass as a function of how many indices each group keeps.

Every operation is timed at a few lengths of each dimension that can shrink; between these lengths
times are interpolated. Operations of the same shapes are timed once. The lengths are multiples of
the number that the machine computes at a time (a probe finds it): in between nothing is gained.

Example: a convolution of 64 channels takes 1.0 ms at 64, 0.8 ms at 48 and 0.5 ms at 32 channels.
At 40 the table says 0.65 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import numpy as np
import torch

from graphprune.core.axes import Axis, Dim, atoms, leaves, length
from graphprune.core.cuts import attributes
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Counts, Dependencies
from graphprune.core.indices import kept_length
from graphprune.core.progress import tracked
from graphprune.costs.constants import FLAT, FRACTIONS, PROBED, STEPS
from graphprune.costs.counted import Polynomial, monomials
from graphprune.costs.latency.backend import Backend
from graphprune.costs.latency.table import Array, Table
from graphprune.costs.latency.timing import Timer, steady
from graphprune.rules.facts import shared_memory

Sizes = Mapping[Axis, int]


@dataclass
class _Part:
    """Operations whose measured times are scaled by one factor.

    Attributes:
        tables: One table for all operations with the same one or two variables; operations with
            more have a table each.
        constant: Seconds of operations whose time no choice changes.
        share: The factor.
    """

    tables: dict[object, Table]
    constant: float = 0.0
    share: float = 1.0

    def seconds(self, lengths: Counts) -> float:
        """Measured seconds, not yet scaled."""
        found = (
            table([float(lengths[v]) for v in table.variables]) for table in self.tables.values()
        )
        return self.constant + sum(found)


class Latency:
    """Seconds of a forward pass: the sum of its operations' measured times.

    Args:
        deps: The analysis.
        backend: What runs the operations.
        timer: Measures, or remembers.
        sizes: Lengths to measure at, of axes that were captured longer: the batch.

    Attributes:
        step: What lengths should be multiples of on this machine.
    """

    def __init__(
        self,
        deps: Dependencies,
        backend: Backend,
        timer: Timer | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        self._deps = deps
        self._timer = timer or Timer()
        self._backend = backend
        self._sizes = sizes or {}
        self._ids = {group.axis: group.id for group in deps.groups}
        self._variables: dict[Dim, int] = {}
        self._lengths: list[Polynomial] = []
        self._alone, self._joined = _Part({}), _Part({})
        ops = [op for op in deps.source.ops if shared_memory(op) is None and op.source is not None]
        with steady():
            self.step = max(map(self._probe, self._heaviest(ops)), default=1)
            for op in tracked(ops, "measuring this machine", len(ops)):
                joined = self._backend.fuses and not deps.effects[op].macs
                self._add(op, self._joined if joined else self._alone)
        self._timer.save()

    @cached_property
    def _touching(self) -> list[list[tuple[_Part, Table]]]:
        """For each group the tables that its count matters to."""
        out: list[list[tuple[_Part, Table]]] = [[] for _ in self._deps.groups]
        held = [
            {self._ids[axis] for axis in atoms(dim) if axis in self._ids} for dim in self._variables
        ]
        for part in (self._alone, self._joined):
            for table in part.tables.values():
                for group in sorted(set().union(*(held[v] for v in table.variables))):
                    out[group].append((part, table))
        return out

    def __call__(self, counts: Counts) -> float:
        """Seconds when group i keeps `counts[i]` indices."""
        lengths = np.array([length(counts) for length in self._lengths])
        parts = (self._alone, self._joined)
        return sum(part.share * part.seconds(lengths) for part in parts)

    def change(self, counts: Counts, group: int, to: float) -> float:
        """By how much the time changes when one group keeps `to` indices instead."""
        changed = counts.copy()
        changed[group] = to
        total = 0.0
        for part, table in self._touching[group]:
            lengths = [self._lengths[v] for v in table.variables]
            before = table([length(counts) for length in lengths])
            total += part.share * (table([length(changed) for length in lengths]) - before)
        return total

    def fit(self, seconds: float) -> None:
        """Scale the operations so that their sum is the time of the whole model.

        Operations that the backend fuses into others count only for what the others leave over.

        Args:
            seconds: Of the whole model at full size.
        """
        full = np.array([group.size for group in self._deps.groups], dtype=np.float64)
        lengths = np.array([length(full) for length in self._lengths])
        alone, joined = self._alone.seconds(lengths), self._joined.seconds(lengths)
        counted = min(max(seconds - alone, 0.0), joined)
        whole = seconds / max(alone + counted, 1e-12)
        self._alone.share = whole
        self._joined.share = whole * counted / joined if joined else 1.0

    def _work(self, op: Op) -> float:
        """Multiply-accumulates of an operation; 0 if none of its dimensions can shrink."""
        if not self._free(op):
            return 0.0
        products = (prod(length(dim) for dim in dims) for dims in self._deps.effects[op].macs)
        return float(sum(products))

    def _heaviest(self, ops: Sequence[Op]) -> list[Op]:
        """The operation with most work of each kind: one operator, one kernel size."""
        found: dict[object, Op] = {}
        for op in ops:
            shapes = [v.shape for v in op.inputs[1:2] if v is not None]
            kind = (op.type, *(shape[2:] for shape in shapes))
            if self._work(op) > (self._work(found[kind]) if kind in found else 0.0):
                found[kind] = op
        return sorted(found.values(), key=self._work)[-PROBED:]

    def _free(self, op: Op) -> list[Dim]:
        """The variables of an operation: its dimensions that can shrink.

        Factors that only occur together, such as heads and head_dim of a projection, are one
        variable, because the kernel sees their product.
        """
        places: dict[Axis, list[tuple[int, int]]] = {}
        values = [v for v in (*op.inputs, *op.outputs) if v is not None]
        for number, value in enumerate(values):
            for place, dim in enumerate(self._deps.dims[value]):
                for leaf in dict.fromkeys(leaves(dim)):
                    if any(axis in self._ids for axis in atoms((leaf,))):
                        places.setdefault(leaf, []).append((number, place))
        together: dict[tuple[tuple[int, int], ...], list[Axis]] = {}
        for leaf, found in places.items():
            together.setdefault(tuple(found), []).append(leaf)
        return [tuple(sorted(held, key=lambda axis: axis.id)) for held in together.values()]

    def _counts(self, wanted: Iterable[tuple[Dim, float]]) -> dict[Axis, int]:
        """How many indices each axis keeps where variables shrink to fractions."""
        out: dict[Axis, int] = {}
        for dim, fraction in wanted:
            largest = max(dim, key=lambda leaf: leaf.size)
            for axis in atoms((largest,)):
                if axis in self._ids:
                    out[axis] = max(round(axis.size * fraction), 1)
        return out

    def _probe(self, op: Op) -> int:
        """The largest step such that lengths short of a multiple take the multiple's time."""
        dim = max(self._free(op), key=length)
        size = max(leaf.size for leaf in dim)
        for step in STEPS:
            top = size // step * step
            if top < 4 * step:
                continue
            whole = self._seconds(op, self._counts([(dim, top / size)]))
            short = self._seconds(op, self._counts([(dim, (top - step // 4 - 1) / size)]))
            if whole is not None and short is not None and short > whole * FLAT:
                return step
        return 1

    def _add(self, op: Op, part: _Part) -> None:
        free = self._free(op)
        whole = self._seconds(op, {})
        if not free or whole is None:
            part.constant += whole or 0.0
            return
        points = [self._points(dim) for dim in free]
        variables = tuple(self._variable(dim) for dim in free)
        grid = tuple(np.array(sorted(found), dtype=np.float64) for found in points)
        key: object = variables
        if len(free) <= 2:
            seconds = self._measured(op, free, points, whole)
        else:
            key = op  # products do not add up
            rows = [self._measured(op, [d], [p], whole) for d, p in zip(free, points, strict=True)]
            seconds = np.ones((len(rows), max(map(len, rows))))
            for number, row in enumerate(rows):
                seconds[number, : len(row)] = row / whole
        if key in part.tables:
            part.tables[key].seconds = part.tables[key].seconds + seconds
        else:
            part.tables[key] = Table(variables, grid, seconds, whole)

    def _measured(
        self, op: Op, free: Sequence[Dim], points: Sequence[Mapping[int, float]], whole: float
    ) -> Array:
        """Seconds at every point of a grid; the whole time where an operation does not run."""
        seconds = np.full([len(found) for found in points], whole)
        for place in product(*(range(n) for n in seconds.shape)):
            fractions = [sorted(f.items())[i][1] for f, i in zip(points, place, strict=True)]
            if all(fraction == 1 for fraction in fractions):
                continue
            counts = self._counts(zip(free, fractions, strict=True))
            found = self._seconds(op, counts)
            seconds[place] = whole if found is None else found
        return seconds

    def _points(self, dim: Dim) -> dict[int, float]:
        """Lengths of a variable that are measured, with the fraction of its largest factor."""
        size = max(leaf.size for leaf in dim)
        step = self.step if size >= 4 * self.step else 1
        out = {}
        for fraction in FRACTIONS:
            kept = size if fraction == 1 else max(round(size * fraction / step) * step, step)
            found = kept / size
            if kept <= size:
                out[kept_length(dim, self._counts([(dim, found)]))] = found
        return out

    def _variable(self, dim: Dim) -> int:
        if dim not in self._variables:
            self._variables[dim] = len(self._variables)
            dims: list[list[Dim]] = [[dim]]
            self._lengths.append(Polynomial(monomials(dims, self._ids), len(self._ids)))
        return self._variables[dim]

    def _seconds(self, op: Op, counts: Sizes) -> float | None:
        """Time of one operation, or None where it does not run at these lengths."""
        counts = {**self._sizes, **counts}
        made: dict[Value, torch.Tensor] = {}
        try:
            operands = [None if v is None else self._operand(v, counts, made) for v in op.inputs]
            changed = attributes(self._deps, op, counts)
            key, prepare = self._backend.operation(op, changed, operands)
            return self._timer.seconds(key, prepare, self._device)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return None

    @cached_property
    def _device(self) -> torch.device:
        weights = (value.tensor for value in self._deps.source.parameters())
        found: torch.device = next(
            (w.device for w in weights if w is not None), torch.device("cpu")
        )
        return found

    def _operand(
        self, value: Value, counts: Sizes, made: dict[Value, torch.Tensor]
    ) -> torch.Tensor:
        """A tensor of a value's type and narrowed shape; numbers stand in for what is computed."""
        if value not in made:
            shape = [kept_length(dim, counts) for dim in self._deps.dims[value]]
            dtype: torch.dtype = getattr(torch, value.dtype)
            if dtype.is_floating_point:
                made[value] = torch.full(shape, 0.5, dtype=dtype, device=self._device)
            else:
                made[value] = torch.zeros(shape, dtype=dtype, device=self._device)
        return made[value]
