"""Importance criteria, and the compiled kernels that score at the speed of memory."""

from __future__ import annotations

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
        for r in range(rows * block // blocks, rows * (block + 1) // blocks):
            whole = 0.0
            for c in range(columns):
                part = 0.0
                for k in range(inner):
                    x = np.float64(weight[r, c, k])
                    part += x * x if squared else abs(x)
                partial[block, c] += part
                whole += part
            by_row[r] += whole
    return by_row, partial.sum(axis=0)


def slice_sums(weight: torch.Tensor, dim: int, squared: bool) -> Scores:
    """Sum of |w| or w² over everything but one dimension.

    Args:
        weight: A weight of any shape, type and device.
        dim: The dimension whose indices are summed for.
        squared: Whether to sum squares or absolute values.

    Returns:
        One sum for each index of the dimension, accumulated in float64.
    """
    data = weight.detach()
    if data.device.type != "cpu" or data.numel() < _SMALL:
        others = [d for d in range(data.dim()) if d != dim]
        data = data.double().square() if squared else data.double().abs()
        return np.asarray((data.sum(others) if others else data).cpu(), dtype=np.float64)
    if data.dtype not in (torch.float32, torch.float64):
        data = data.float()
    shape = data.shape
    array = data.contiguous().numpy()
    if dim == 0:
        by_row, _ = _sums(array.reshape(shape[0], 1, -1), squared, numba.get_num_threads())
        return np.asarray(by_row)
    lead = int(np.prod(shape[:dim]))
    view = array.reshape(lead, shape[dim], -1)
    _, by_column = _sums(view, squared, min(numba.get_num_threads(), lead))
    return np.asarray(by_column)


def l1(weight: torch.Tensor, dim: int) -> Scores:
    """Sum of absolute values (Li et al., Pruning Filters for Efficient ConvNets, 2017)."""
    return slice_sums(weight, dim, squared=False)


def l2(weight: torch.Tensor, dim: int) -> Scores:
    """Sum of squares: summed over a group, the squared group norm (Fang et al., DepGraph, 2023)."""
    return slice_sums(weight, dim, squared=True)


CRITERIA: dict[str, Criterion] = {"l1": l1, "l2": l2}
