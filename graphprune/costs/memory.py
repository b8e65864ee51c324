"""Peak activation memory in closed form: the largest sum of the values that are alive at once.

A value is alive from the operation that makes it to the last one that reads it, or reads a view of
it. Weights are not counted: parameters are a cost of their own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from graphprune.core.graph import Value
from graphprune.core.groups import Counts, Dependencies
from graphprune.costs.counted import monomials
from graphprune.rules.facts import shared_memory

_BYTES = {"float64": 8, "int64": 8, "complex64": 8, "float16": 2, "bfloat16": 2, "int16": 2,
          "int8": 1, "uint8": 1, "bool": 1}  # fmt: skip


class PeakMemory:
    """Bytes of activations alive at once, at the operation where they are most.

    The working memory inside an operation is not counted. Inputs are alive while they are read.

    Args:
        deps: The analysis.
    """

    def __init__(self, deps: Dependencies) -> None:
        groups = len(deps.groups)
        ids = {group.axis: group.id for group in deps.groups}
        values, births, deaths = _lifetimes(deps)
        self._births, self._deaths = births, deaths
        self._steps = len(deps.source.ops) + 1
        owner: list[int] = []
        rows: list[tuple[tuple[int, ...], float]] = []
        for number, value in enumerate(values):
            width = _BYTES.get(value.dtype, 4)
            for key, coefficient in monomials([deps.dims[value]], ids).items():
                owner.append(number)
                rows.append((key, coefficient * width))
        self._owner = np.array(owner, dtype=np.int64)
        self._values = len(values)
        degree = max((len(key) for key, _ in rows), default=1) or 1
        self._ids = np.full((len(rows), degree), groups, dtype=np.int64)
        for row, (key, _) in enumerate(rows):
            self._ids[row, : len(key)] = key
        self._coefficients = np.array([c for _, c in rows], dtype=np.float64)

    def alive(self, counts: Counts) -> npt.NDArray[np.float64]:
        """Bytes alive during each operation, the inputs' arrival first."""
        terms = self._coefficients * np.append(counts, 1.0)[self._ids].prod(axis=1)
        sizes = np.bincount(self._owner, terms, self._values)
        steps = np.zeros(self._steps + 1)
        np.add.at(steps, self._births, sizes)
        np.subtract.at(steps, self._deaths, sizes)
        return np.cumsum(steps)[:-1]

    def __call__(self, counts: Counts) -> float:
        """The peak in bytes when group i keeps `counts[i]` indices."""
        return float(self.alive(counts).max())

    def change(self, counts: Counts, group: int, to: float) -> float:
        """By how much the peak changes when one group keeps `to` indices instead."""
        changed = counts.copy()
        changed[group] = to
        return self(changed) - self(counts)


def _lifetimes(
    deps: Dependencies,
) -> tuple[list[Value], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Values that own memory, when each is made, and the step after its last use."""
    base: dict[Value, Value] = {}
    births: dict[Value, int] = dict.fromkeys(deps.source.inputs, 0)
    deaths: dict[Value, int] = dict.fromkeys(deps.source.inputs, 1)
    for step, op in enumerate(deps.source.ops, 1):
        for value in op.inputs:
            if value is not None and not value.is_weight:
                deaths[base.get(value, value)] = step + 1
        source = shared_memory(op)
        for value in op.outputs:
            if source is not None:
                base[value] = base.get(source, source)
            else:
                births[value] = step
                deaths[value] = step + 1
    for value in deps.source.outputs:
        if base.get(value, value) in births:
            deaths[base.get(value, value)] = len(deps.source.ops) + 1
    values = [value for value in births if not value.is_weight]
    return (
        values,
        np.array([births[value] for value in values], dtype=np.int64),
        np.array([deaths[value] for value in values], dtype=np.int64),
    )
