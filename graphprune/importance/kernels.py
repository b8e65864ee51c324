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

Scores: TypeAlias = npt.NDArray[np.float64]

ABSOLUTE, SQUARED, SIGNED = 0, 1, 2
"""What is summed: |w|, w² or w."""

_SMALL = 1 << 12  # elements; below, a call of PyTorch is as fast
_THREADED = 1 << 19  # elements; below, starting threads costs more than it saves
_BLOCK = 1 << 20  # elements converted at a time
_FAST = {"reassoc", "contract", "nsz"}


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _four_rows(w: Any, r: int, kind: int, by_row: Any, sums: Any) -> None:  # pragma: no cover
    """Sums of four rows side by side: the column sums are loaded and stored once for all."""
    a, b, c, d = w[r], w[r + 1], w[r + 2], w[r + 3]
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    for i in range(len(a)):
        x0, x1, x2, x3 = np.float64(a[i]), np.float64(b[i]), np.float64(c[i]), np.float64(d[i])
        if kind == 1:
            x0, x1, x2, x3 = x0 * x0, x1 * x1, x2 * x2, x3 * x3
        elif kind == 0:
            x0, x1, x2, x3 = abs(x0), abs(x1), abs(x2), abs(x3)
        s0 += x0
        s1 += x1
        s2 += x2
        s3 += x3
        sums[i] += (x0 + x1) + (x2 + x3)
    by_row[r], by_row[r + 1], by_row[r + 2], by_row[r + 3] = s0, s1, s2, s3


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _row(w: Any, r: int, kind: int, by_row: Any, sums: Any) -> None:  # pragma: no cover
    a = w[r]
    whole = 0.0
    for i in range(len(a)):
        x = np.float64(a[i])
        x = x * x if kind == 1 else abs(x) if kind == 0 else x
        whole += x
        sums[i] += x
    by_row[r] = whole


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _deep_row(w: Any, r: int, kind: int, by_row: Any, sums: Any) -> None:  # pragma: no cover
    """As `_row` for a row of columns that hold several elements each."""
    whole = 0.0
    for c in range(w.shape[1]):
        part = 0.0
        for k in range(w.shape[2]):
            x = np.float64(w[r, c, k])
            part += x * x if kind == 1 else abs(x) if kind == 0 else x
        sums[c] += part
        whole += part
    by_row[r] = whole


@numba.njit(cache=True, nogil=True, fastmath=_FAST)
def _sums(w: Any, kind: int, start: int, stop: int) -> Any:  # pragma: no cover
    """Row and column sums of rows of a contiguous (rows, columns, inner) array in one pass.

    Where columns hold few elements each, every element is summed as a column of its own first:
    short loops inside would cost more. While the column sums fit the first cache, one stream
    through memory is fastest; beyond, four rows at a time load and store them less often.
    """
    rows, columns, inner = w.shape
    deep = inner >= 32
    width = columns if deep else columns * inner
    flat = w.reshape(rows, columns * inner)
    by_row = np.zeros(rows)
    sums = np.zeros(width)
    r = start
    while r + 4 <= stop and not deep and width > 2304:
        _four_rows(flat, r, kind, by_row, sums)
        r += 4
    while r < stop:
        if deep:
            _deep_row(w, r, kind, by_row, sums)
        else:
            _row(flat, r, kind, by_row, sums)
        r += 1
    return by_row[start:stop], sums.reshape(columns, width // columns).sum(axis=1)


def slice_sums(data: torch.Tensor, kind: int) -> list[Scores]:
    """Sums over everything but one dimension, for each of the first two dimensions.

    Args:
        data: A tensor of any shape, floating type, strides and device.
        kind: `ABSOLUTE`, `SQUARED` or `SIGNED`.

    Returns:
        One array for a vector, else two.
    """
    data = data.detach()
    if data.dim() < 2 or data.device.type != "cpu" or data.numel() < _SMALL:
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
    if data.device.type != "cpu" or data.numel() < _SMALL:
        return _plain(data, dim, kind)
    total = np.zeros(data.shape[dim])
    for block in _blocks(data if dim else data[None]):
        total += _compiled(block.reshape(-1, len(total), prod(data.shape[dim + 1 :])), kind)[1]
    return total


def _plain(data: torch.Tensor, dim: int, kind: int) -> Scores:
    others = tuple(d for d in range(data.dim()) if d != dim)
    if data.device.type == "cpu":  # for small arrays NumPy costs less to call
        array = data.double().numpy()
        array = (
            np.square(array) if kind == SQUARED else np.abs(array) if kind == ABSOLUTE else array
        )
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
    """The sums of an array, its rows shared out to as many threads as PyTorch uses."""
    rows = len(array)
    threads = min(torch.get_num_threads(), rows) if array.size >= _THREADED else 1
    if threads == 1:
        by_row, by_column = _sums(array, kind, 0, rows)
        return by_row, by_column
    bounds = [rows * i // threads for i in range(threads + 1)]
    work = [_pool(threads).submit(_sums, array, kind, a, b) for a, b in pairwise(bounds)]
    found = [task.result() for task in work]
    return np.concatenate([rows for rows, _ in found]), np.sum([c for _, c in found], axis=0)


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "graphprune")
