"""Compiled sums over the slices of a weight, at the speed of memory.

Rows and columns of an array are summed in one pass: float32 (or float64) in, float64 accumulated.
Other types and odd strides are converted block by block, so that no large array is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from math import prod
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
import torch

from graphprune.importance.constants import COMPILED_FROM, ROWS_FROM, THREADS_FROM

Scores: TypeAlias = npt.NDArray[np.float64]

ABSOLUTE, SQUARED, SIGNED = 0, 1, 2
"""What is summed: |w|, w² or w."""

_BLOCK = 1 << 20  # elements that are converted at a time: 4 MiB of float32
_FAST = {"reassoc", "contract", "nsz"}  # what vectorises sums; NaN and infinity still count


@lru_cache(maxsize=3)
def _kernel(kind: int) -> Any:
    """The compiled sums of one kind; the others are compiled when they are asked for."""

    @numba.njit(cache=True, nogil=True, fastmath=_FAST)
    def sums(
        w: Any, start: int, stop: int, by_row: Any, by_column: Any
    ) -> None:  # pragma: no cover
        """Add the row and column sums of some rows of a matrix, in one pass.

        Four streams, a quarter of the rows apart, keep more of the memory busy than one, and load
        and store the column sums less often.
        """
        apart = (stop - start) // 4
        for r in range(start, start + apart):
            a, b, c, d = w[r], w[r + apart], w[r + 2 * apart], w[r + 3 * apart]
            s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
            for i in range(len(a)):
                x0, x1 = np.float64(a[i]), np.float64(b[i])
                x2, x3 = np.float64(c[i]), np.float64(d[i])
                if kind == SQUARED:
                    x0, x1, x2, x3 = x0 * x0, x1 * x1, x2 * x2, x3 * x3
                elif kind == ABSOLUTE:
                    x0, x1, x2, x3 = abs(x0), abs(x1), abs(x2), abs(x3)
                s0 += x0
                s1 += x1
                s2 += x2
                s3 += x3
                by_column[i] += (x0 + x1) + (x2 + x3)
            by_row[r] = s0
            by_row[r + apart] = s1
            by_row[r + 2 * apart] = s2
            by_row[r + 3 * apart] = s3
        for r in range(start + 4 * apart, stop):
            a = w[r]
            s0 = 0.0
            for i in range(len(a)):
                x = np.float64(a[i])
                x = x * x if kind == SQUARED else abs(x) if kind == ABSOLUTE else x
                s0 += x
                by_column[i] += x
            by_row[r] = s0

    return sums


def slice_sums(data: torch.Tensor, kind: int) -> list[Scores]:
    """Sums over everything but one dimension, for each of the first two dimensions.

    Args:
        data: A tensor of any shape, floating type, strides and device.
        kind: `ABSOLUTE`, `SQUARED` or `SIGNED`.

    Returns:
        One array for a vector, else two.
    """
    data = data.detach()
    if data.dim() < 2 or data.device.type != "cpu" or data.numel() < COMPILED_FROM:
        return [_plain(data, dim, kind) for dim in range(min(data.dim(), 2))]
    rows: list[Scores] = []
    columns = np.zeros(data.shape[1])
    for block in _blocks(data):
        by_row, by_column = _compiled(block.reshape(*block.shape[:2], -1), kind)
        rows.append(by_row)
        columns += by_column
    return [np.concatenate(rows) if len(rows) > 1 else rows[0], columns]


def slice_sum(data: torch.Tensor, dim: int, kind: int) -> Scores:
    """Sums over everything but one dimension of any number; see `slice_sums`."""
    data = data.detach()
    if dim < 2 and data.dim() > 1:
        return slice_sums(data, kind)[dim]
    if data.device.type != "cpu" or data.numel() < COMPILED_FROM:
        return _plain(data, dim, kind)
    total = np.zeros(data.shape[dim])
    for block in _blocks(data if dim else data[None]):
        total += _compiled(block.reshape(-1, len(total), prod(data.shape[dim + 1 :])), kind)[1]
    return total


def _plain(data: torch.Tensor, dim: int, kind: int) -> Scores:
    others = tuple(d for d in range(data.dim()) if d != dim)
    if data.device.type == "cpu":  # for small arrays NumPy costs less to call
        native = data.dtype in (torch.float32, torch.float64)
        with np.errstate(invalid="ignore"):  # a NaN that signals stays one that does not
            array = (data if native else data.double()).numpy().astype(np.float64)
        if kind == SQUARED:
            array *= array
        elif kind == ABSOLUTE:
            np.abs(array, out=array)
        return np.asarray(array.sum(others) if others else array, dtype=np.float64)
    data = data.double()
    data = data.square() if kind == SQUARED else data.abs() if kind == ABSOLUTE else data
    return np.asarray((data.sum(others) if others else data).cpu(), dtype=np.float64)


def _blocks(data: torch.Tensor) -> Iterator[npt.NDArray[Any]]:
    """The tensor as contiguous arrays that the kernels take, whole where it is one already."""
    ready = data.dtype in (torch.float32, torch.float64)
    if ready and data.is_contiguous():
        yield data.numpy()
        return
    step = max(_BLOCK * len(data) // data.numel(), 1)
    for part in data.split(step):  # type: ignore[no-untyped-call]
        yield (part if ready else part.float()).contiguous().numpy()


def _compiled(array: npt.NDArray[Any], kind: int) -> tuple[Scores, Scores]:
    """Sums over all but the first, and all but the second dimension of three.

    Where columns hold few elements each, every element is a column of its own at first: short loops
    inside would cost more. Else every column of every row is a row of its own.
    """
    rows, columns, inner = array.shape
    if inner < ROWS_FROM:
        by_row, by_element = _matrix(array.reshape(rows, -1), kind)
        return by_row, by_element if inner == 1 else by_element.reshape(columns, inner).sum(1)
    each = _matrix(array.reshape(-1, inner), kind)[0].reshape(rows, columns)
    return each.sum(1), each.sum(0)


def _matrix(array: npt.NDArray[Any], kind: int) -> tuple[Scores, Scores]:
    """Row and column sums, the rows shared out to as many threads as PyTorch uses."""
    rows, columns = array.shape
    sums = _kernel(kind)
    by_row = np.empty(rows)
    threads = min(torch.get_num_threads(), rows) if array.size >= THREADS_FROM else 1
    if threads == 1:
        by_column = np.zeros(columns)
        sums(array, 0, rows, by_row, by_column)
        return by_row, by_column
    parts = np.zeros((threads, columns))
    bounds = [rows * i // threads for i in range(threads + 1)]
    work = [
        _pool(threads).submit(sums, array, start, stop, by_row, part)
        for part, (start, stop) in zip(parts, pairwise(bounds), strict=True)
    ]
    for task in work:
        task.result()
    return by_row, parts.sum(0)


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "graphprune")
