"""Tables of measured seconds, read between the lengths that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass
class Table:
    """Seconds at lengths of a few variables.

    One or two variables have a grid of their own. Three and more are taken to be independent: the
    table is a product of what each of them does alone, the others being whole.

    Attributes:
        variables: Ids of the variables.
        grid: For each variable the lengths that were measured, ascending.
        seconds: For one or two variables the time at each point of the grid; for more one row
            for each variable, as a share of the whole time, padded at the end.
        whole: Seconds at full length.
    """

    variables: tuple[int, ...]
    grid: tuple[Array, ...]
    seconds: Array
    whole: float = 1.0

    def __call__(self, lengths: Sequence[float]) -> float:
        """Seconds at given lengths of the variables."""
        if len(self.grid) <= 2:
            values = self.seconds
            for points, wanted in zip(self.grid, lengths, strict=True):
                values = _between(points, values, wanted)
            return float(values)
        out = self.whole
        for points, row, wanted in zip(self.grid, self.seconds, lengths, strict=True):
            out *= float(_between(points, row, wanted))
        return out


def _between(points: Array, values: Array, wanted: float) -> Array:
    """Values at a length between two points; beyond the first and the last, theirs."""
    if len(points) == 1:
        return np.asarray(values[0])
    at = int(np.clip(np.searchsorted(points, wanted) - 1, 0, len(points) - 2))
    share = (wanted - points[at]) / (points[at + 1] - points[at])
    return np.asarray(values[at] + min(max(share, 0.0), 1.0) * (values[at + 1] - values[at]))
