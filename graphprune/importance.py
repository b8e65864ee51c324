"""Importance criteria, and the compiled kernels that score at the speed of memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
import torch

Scores: TypeAlias = npt.NDArray[np.float64]

Criterion: TypeAlias = Callable[[torch.Tensor, int], Scores]
"""Scores the slices of one weight along one dimension: `(weight, dim) -> one number each`.

The score of an index of a coupled group is the sum over every slice that the index owns.
"""


_SMALL = 1 << 15  # below, starting threads costs more than it saves


@numba.njit(cache=True, parallel=True, fastmath={"reassoc", "contract", "nsz"})
def _sums(weight: Any, squared: bool, blocks: int) -> Any:  # pragma: no cover
    """Row and column sums of |w| or w² of a contiguous (rows, columns, inner) array, one pass."""
    rows, columns, inner = weight.shape
    by_row = np.zeros(rows)
    partial = np.zeros((blocks, columns))
    for block in numba.prange(blocks):
        sums = np.zeros(columns)
        for r in range(rows * block // blocks, rows * (block + 1) // blocks):
            whole = 0.0
            if inner == 1:  # the compiler makes vector code of this loop only
                row = weight[r, :, 0]
                for c in range(columns):
                    x = np.float64(row[c])
                    x = x * x if squared else abs(x)
                    sums[c] += x
                    whole += x
            else:
                for c in range(columns):
                    part = 0.0
                    for k in range(inner):
                        x = np.float64(weight[r, c, k])
                        part += x * x if squared else abs(x)
                    sums[c] += part
                    whole += part
            by_row[r] = whole
        partial[block] = sums
    return by_row, partial.sum(axis=0)


class SliceNorm:
    """Sum of |w| or w² over everything but one dimension, accumulated in float64.

    The sums for a weight's first two dimensions come from one pass over memory.

    Args:
        squared: Whether to sum squares or absolute values.
    """

    def __init__(self, squared: bool) -> None:
        self._squared = squared
        self._last: weakref.ref[torch.Tensor] | None = None
        self._version = -1
        self._known: tuple[Scores, Scores] | None = None

    def __call__(self, weight: torch.Tensor, dim: int) -> Scores:
        """One sum for each index of a dimension.

        Args:
            weight: A weight of any shape, type and device.
            dim: The dimension.
        """
        data = weight.detach()
        if data.device.type != "cpu" or data.numel() < _SMALL:
            others = [d for d in range(data.dim()) if d != dim]
            data = data.double().square() if self._squared else data.double().abs()
            return np.asarray((data.sum(others) if others else data).cpu(), dtype=np.float64)
        if dim > 1 or data.dim() < 2:
            return self._pass(data.flatten(0, dim - 1) if dim > 1 else data[None])[1]
        same = self._last is not None and self._last() is weight
        if self._known is None or not same or self._version != weight._version:
            self._last, self._version = weakref.ref(weight), weight._version
            self._known = self._pass(data)
        return self._known[dim]

    def _pass(self, data: torch.Tensor) -> tuple[Scores, Scores]:
        if data.dtype not in (torch.float32, torch.float64):
            data = data.float()
        array = data.contiguous().numpy().reshape(*data.shape[:2], -1)
        blocks = min(numba.get_num_threads(), len(array))
        by_row, by_column = _sums(array, self._squared, blocks)
        return by_row, by_column


l1 = SliceNorm(squared=False)
"""L1 norm of filters (Li et al., Pruning Filters for Efficient ConvNets, 2017)."""

l2 = SliceNorm(squared=True)
"""Squared L2 norm, over a group its group norm (Fang et al., DepGraph, 2023)."""

CRITERIA: dict[str, Criterion] = {"l1": l1, "l2": l2}
