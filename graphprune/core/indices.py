"""From choices about axes to positions of dimensions: what is kept, and who owns what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from graphprune.core.axes import Axis, Dim, atoms, leaves, length, segments

Indices: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]


def kept_length(dim: Dim, counts: Mapping[Axis, int]) -> int:
    """Length of a dimension when each atom in `counts` keeps that many indices."""
    size = 1
    for axis in leaves(dim):
        if axis.parts is None:
            size *= counts.get(axis, axis.size)
        else:
            size *= sum(kept_length(part, counts) for part in segments(axis))
    return size


def kept_indices(dim: Dim, keep: Mapping[Axis, Indices]) -> Indices | None:
    """Positions of a dimension that survive, or None when all do.

    Args:
        dim: The dimension.
        keep: Sorted indices to keep, for each atom that loses some.
    """
    if not any(axis in keep for axis in atoms(dim)):
        return None
    out: Indices = np.zeros(1, dtype=np.int64)
    for axis in leaves(dim):
        out = (out[:, None] * axis.size + _kept_leaf(axis, keep)[None, :]).ravel()
    return out


def _kept_leaf(axis: Axis, keep: Mapping[Axis, Indices]) -> Indices:
    if axis.parts is None:
        found = keep.get(axis)
        return np.arange(axis.size) if found is None else found
    pieces: list[Indices] = []
    start = 0
    for part in segments(axis):
        size = length(part)
        inner = kept_indices(part, keep)
        pieces.append((np.arange(size) if inner is None else inner) + start)
        start += size
    return np.concatenate(pieces)


def holdings(dim: Dim) -> Iterator[tuple[Axis, Indices, Indices]]:
    """Which positions of a dimension each index of each atom owns.

    Yields:
        An atom, positions of the dimension, and the atom's index that owns each of them.
    """
    sizes = [axis.size for axis in leaves(dim)]
    for number, leaf in enumerate(leaves(dim)):
        before, after = prod(sizes[:number]), prod(sizes[number + 1 :])
        for axis, positions, indices in _leaf_holdings(leaf):
            outer = np.arange(before)[:, None, None] * (leaf.size * after)
            inner = np.arange(after)[None, None, :]
            spread = outer + positions[None, :, None] * after + inner
            owner = np.broadcast_to(indices[None, :, None], spread.shape)
            yield axis, spread.ravel(), owner.ravel()


def _leaf_holdings(leaf: Axis) -> Iterator[tuple[Axis, Indices, Indices]]:
    if leaf.parts is None:
        yield leaf, np.arange(leaf.size), np.arange(leaf.size)
        return
    start = 0
    for part in segments(leaf):
        for axis, positions, indices in holdings(part):
            yield axis, positions + start, indices
        start += length(part)
