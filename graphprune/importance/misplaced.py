"""misplaced: zeros of grouped channels that do not lie at the same index of every group.

An index of a grouped convolution's channels goes in all groups at once. Where every group has zeros
that are elsewhere, the channels of each group are put in an order of their own, in all weights that
hold them: what is free comes first, and as many indices are free then as the group with the fewest
free channels has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from graphprune.core.axes import Axis, atoms
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Flags, Indices
from graphprune.core.rewrites import Draft, Step, Weigh
from graphprune.core.rows import Places, outer, places
from graphprune.importance.freedom import Free
from graphprune.importance.stored import Stored


@dataclass(frozen=True)
class Held:
    """An operand that holds grouped channels.

    Attributes:
        op: The operation's name.
        number: Which of its operands.
        places: Where the channels lie in it, and whether the operation sums over them.
    """

    op: str
    number: int
    places: tuple[tuple[Places, bool], ...]


@dataclass(frozen=True)
class Order:
    """An order of the channels of every group, by which more of them can go.

    Attributes:
        order: `groups x channels`: for each place the channel that is put there.
        zeros: How many of the first are zero in every group.
        gain: How many more of all groups are free then.
        held: The weights that hold the channels.
    """

    order: Indices
    zeros: int
    gain: int
    held: tuple[Held, ...]

    def steps(self, draft: Draft) -> tuple[Step, ...]:
        """Put all weights in this order; those that are read through zeros are zero there.

        Args:
            draft: The graph with the weights as they are.
        """
        ops = {op.name: op for op in draft.ops}
        return tuple(
            Weigh(at.op, at.number, self._ordered(ops[at.op].inputs[at.number], at.places))
            for at in self.held
            if at.op in ops
        )

    def _ordered(
        self, weight: Value | None, places: tuple[tuple[Places, bool], ...]
    ) -> torch.Tensor:
        assert weight is not None, "what holds channels is there"
        tensor = torch.as_tensor(weight.tensor).detach()
        for place, summed in places:
            tensor = place.reordered(tensor, self.order)
            if summed and tensor.is_floating_point():
                gone = torch.as_tensor(place.positions[:, : self.zeros].ravel())
                tensor = tensor.index_fill(place.dim, gone.to(tensor.device), 0.0)
        return tensor


def orders(deps: Dependencies) -> Iterator[Order]:
    """The orders of grouped channels that let more of them go.

    Args:
        deps: The analysis.
    """
    rows = outer(deps, [group.axis for group in deps.groups])
    if not rows:
        return
    free = Free(deps, rows)
    counts = [
        {axis: int(mask.sum()) for axis, mask in masks.items()}
        for masks in (free.found, free.constant())
    ]
    held = free.known.axes()
    for axis, found in rows.items():
        if axis in held:
            order = _Grouped(free, deps, axis, found).order([n.get(axis, 0) for n in counts])
            if order is not None:
                yield order


class _Grouped:
    """The channels of groups: an axis, and those that tell the groups apart.

    Args:
        free: What is known of the model.
        deps: The analysis.
        axis: The axis of the channels of one group.
        rows: The axes of the groups.
    """

    def __init__(self, free: Free, deps: Dependencies, axis: Axis, rows: tuple[Axis, ...]) -> None:
        self._free, self._deps, self._axis, self._rows = free, deps, axis, rows
        self._shape = prod(own.size for own in rows), axis.size
        self._stored = Stored(deps)
        self._sums = [
            op
            for op in deps.source.ops
            if any(axis in atoms(dim) for dim in deps.effects[op].contracts)
        ]
        self._places = {
            value: places(dims, axis, rows)
            for value, dims in deps.dims.items()
            if any(axis in atoms(dim) for dim in dims)
        }

    def order(self, before: Sequence[int]) -> Order | None:
        """The order that lets more indices go, if there is one.

        Args:
            before: How many indices are free now, and how many with constants in biases.
        """
        if not self._sums or not self._commutes():
            return None
        zero, known = np.ones(self._shape, dtype=bool), np.ones(self._shape, dtype=bool)
        for op in self._sums:
            met = self._met(op)
            zero &= met
            known &= met | self._folded(op)
        after = [int(mask.sum(1).min()) for mask in (zero, known)]
        gain = max(now - then for now, then in zip(after, before, strict=True))
        if gain <= 0:
            return None
        order = np.argsort(-(zero.astype(np.int64) + known), axis=1, kind="stable")
        return Order(order, after[0], gain, tuple(self._held()))

    def _commutes(self) -> bool:
        """Whether the order of channels in a group is no matter, if all weights follow it."""
        deps, own = self._deps, {self._axis, *self._rows}
        if any(found is None for found in self._places.values()):
            return False
        for op in (*deps.source.ops, *deps.source.training):
            values = {value for value in (*op.inputs, *op.outputs) if value is not None}
            if values.isdisjoint(self._places):
                continue
            mixed = {axis for dim in deps.effects[op].mixes for axis in atoms(dim)}
            if op in deps.source.training or mixed & own:
                return False
        return True

    def _met(self, op: Op) -> Flags:
        """Where an operation meets a zero in all of its sums: `groups x channels`."""
        out = np.ones(self._shape, dtype=bool)
        for operands in self._free.operands(op, self._axis):
            out &= np.logical_or.reduce([self._flags(v, at, True) for v, at in operands])
        return out

    def _folded(self, op: Op) -> Flags:
        """Where an operation reads a known number that can go into its bias."""
        source = self._free.folds(op)
        return np.zeros(self._shape, dtype=bool) if source is None else self._flags(*source, False)

    def _flags(self, value: Value, dim: int, zero: bool) -> Flags:
        """Which channels of which group are zero in a value, or known."""
        found_in = [place for place in self._places.get(value) or () if place.dim == dim]
        live = np.full(self._shape, not found_in)
        for place in found_in:
            if value.is_weight:
                numbers = self._stored.numbers(value) != 0
                sides = [place.dim] if place.other is None else [place.other, place.dim]
                rest = [at for at in range(numbers.dim()) if at not in sides]
                laid = numbers.permute(*rest, *sides)
                laid = laid.reshape(-1, len(place.rows), numbers.shape[place.dim])
                flags = laid.any(0).cpu().numpy()
            else:
                found = self._free.known.slices(value, place.dim)
                if found is None:
                    return np.zeros(self._shape, dtype=bool)
                dead = found.mask & (found.numbers == 0) if zero else found.mask
                flags = np.broadcast_to(~dead.numpy(), (len(place.rows), len(dead)))
            live |= place.by_row(flags, self._shape[0])
        return ~live

    def _held(self) -> Iterator[Held]:
        for op in self._deps.source.ops:
            summed = [pair for pairs in self._free.operands(op, self._axis) for pair in pairs]
            if op not in self._sums:
                summed = []
            for number, value in enumerate(op.inputs):
                places = self._places.get(value) if value is not None else None
                if value is not None and value.is_weight and places:
                    told = tuple((place, (value, place.dim) in summed) for place in places)
                    yield Held(op.name, number, told)
