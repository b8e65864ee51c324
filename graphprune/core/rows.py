"""rows: an axis that lies in a dimension several times, once for each index of other axes.

The channels of a grouped convolution are `groups x channels`: an index of the inner axis owns one
channel of every group. Where all values that hold the inner axis hold the outer one too, the
channels of each group may be put in an order of its own: a row has its own permutation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graphprune.core.axes import Axis, Dim, atoms
from graphprune.core.effect import Dims
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Flags, Indices, holdings


@dataclass(frozen=True)
class Places:
    """Where the indices of an axis lie in a dimension of a value, and in which rows.

    Attributes:
        dim: The dimension.
        other: Another dimension that says which row a place is of; None where no other does.
        positions: `times x indices` positions along the dimension.
        rows: `length of the other dimension, or 1, x times` rows.
    """

    dim: int
    other: int | None
    positions: Indices
    rows: Indices

    def by_row(self, flags: Flags, number: int) -> Flags:
        """Which indices of which row own a position that is flagged: `rows x indices`.

        Args:
            flags: `length of the other dimension, or 1, x length of the dimension` flags.
            number: How many rows there are.
        """
        size = self.positions.shape[1]
        out = np.zeros((number, size), dtype=bool)
        where = self.rows[:, :, None], np.arange(size)[None, None, :]
        np.logical_or.at(out, where, flags[:, self.positions])
        return out

    def reordered(self, tensor: torch.Tensor, orders: Indices) -> torch.Tensor:
        """A tensor with the indices of each row in another order.

        Args:
            tensor: The value's numbers.
            orders: `rows x indices`: for each place the index that is put there.
        """
        out = tensor.clone()
        for at, rows in enumerate(self.rows):
            source = np.arange(tensor.shape[self.dim])
            for positions, row in zip(self.positions, rows, strict=True):
                source[positions] = positions[orders[row]]
            index = torch.as_tensor(source, device=tensor.device)
            if self.other is None:
                out.copy_(tensor.index_select(self.dim, index))
            else:
                dim = self.dim - (self.other < self.dim)
                slab = tensor.select(self.other, at).index_select(dim, index)
                out.select(self.other, at).copy_(slab)
        return out


def outer(deps: Dependencies, axes: Collection[Axis]) -> dict[Axis, tuple[Axis, ...]]:
    """For each axis the others that every value holds which holds it; axes without any left out.

    Args:
        deps: The analysis.
        axes: The axes.
    """
    common: dict[Axis, set[Axis]] = {}
    left = set(axes)
    for dims in deps.dims.values():
        held = {own for dim in dims for own in atoms(dim)}
        for axis in held & left:
            rest = common.get(axis, held) & held - {axis}
            common[axis] = rest
            if not rest:
                left.remove(axis)
    found = {axis: sorted(common.get(axis, ()), key=lambda own: own.id) for axis in axes}
    return {axis: tuple(rest) for axis, rest in found.items() if rest}


def places(dims: Dims, axis: Axis, rows: Sequence[Axis]) -> list[Places] | None:
    """Where an axis lies in a value, row by row; None where rows cannot be told.

    Args:
        dims: The value's dimensions.
        axis: The axis.
        rows: The axes that tell rows apart, outermost first.
    """
    out: list[Places] = []
    for number, dim in enumerate(dims):
        for own, positions, owners in holdings(dim):
            if own is axis:
                order = np.argsort(owners, kind="stable")
                found = _placed(dims, number, positions[order].reshape(axis.size, -1).T, rows)
                if found is None:
                    return None
                out.append(found)
    return out


def _placed(dims: Dims, dim: int, positions: Indices, rows: Sequence[Axis]) -> Places | None:
    inner = np.zeros(len(positions), dtype=np.int64)
    beside: dict[int, Indices] = {}
    for axis in rows:
        inner *= axis.size
        for held in beside.values():
            held *= axis.size
        number = next((at for at in (dim, *range(len(dims))) if axis in atoms(dims[at])), dim)
        owners = _owners(dims[number], axis)
        if owners is None:
            return None
        if number == dim:
            told = owners[positions]
            if (told != told[:, :1]).any() or (told < 0).any():
                return None
            inner += told[:, 0]
        elif (owners < 0).any():
            return None
        else:
            beside[number] = beside.get(number, 0) + owners
    if len(beside) > 1:
        return None
    other, lead = next(iter(beside.items()), (None, np.zeros(1, dtype=np.int64)))
    return Places(dim, other, positions, lead[:, None] + inner[None, :])


def _owners(dim: Dim, axis: Axis) -> Indices | None:
    """The index of an axis that owns each position, or -1; None where two do."""
    out = np.full(int(np.prod([own.size for own in dim], dtype=np.int64)), -1)
    for own, positions, owners in holdings(dim):
        if own is axis:
            if (out[positions] >= 0).any():
                return None
            out[positions] = owners
    return out
