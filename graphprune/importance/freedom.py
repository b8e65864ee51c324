"""freedom: which indices can go at no cost, and why, as one look at a graph tells.

1. What is one number for every input is known (`graphprune.importance.known`).
2. An index is free where every operation that sums over its axis meets a zero there: in what it
   reads, or in the weight that it reads it through.
3. It could be made free where, in place of a zero, a linear operation reads a known number, which
   can go into its bias: `W x + b` loses a column c of W that reads the number k, and b gains
   `W[:, c] k`. Not so where places at a border are padded with zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from graphprune.core.axes import Axis, atoms
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.rewrites import Draft
from graphprune.engine.linear import Linear, border, linear
from graphprune.importance.known import Known
from graphprune.rules.products import products
from graphprune.statistics.bounds import Bounds

Mask: TypeAlias = npt.NDArray[np.bool_]

Masks: TypeAlias = Mapping[Axis, Mask]
"""For each axis that has free indices, which of them are."""

_SOME = "stand for several channels, as groups of an operation have them, and not all are"


class Free:
    """Which indices can go at no cost, and why.

    Args:
        deps: The analysis.
        axes: The groups' axes to ask for; all of them where not given.
        bounds: Between which numbers channels of values are taken to lie.
        gone: Indices all of whose slices are taken for zeros, as they are free.

    Attributes:
        deps: The analysis.
        axes: The axes asked for; None for all.
        known: What is known of every value.
        left: Why constant indices of operations cannot go, by the operations' names.
    """

    def __init__(
        self,
        deps: Dependencies,
        axes: Collection[Axis] | None = None,
        bounds: Mapping[Value, Bounds] | None = None,
        gone: Masks | None = None,
    ) -> None:
        self.deps = deps
        self.axes = axes
        self._wanted = {group.axis for group in deps.groups if axes is None or group.axis in axes}
        self.known = Known(deps, self._wanted, bounds, gone)
        self._ops = [*deps.source.ops, *deps.source.training]
        self._draft = Draft(deps.source)
        self._linear: dict[str, Linear | str | None] = {}
        self.left: dict[str, str] = {}

    @cached_property
    def found(self) -> dict[Axis, Mask]:
        """For each axis that has free indices, which of them are."""
        return self._where(self._summed)

    def constant(self) -> dict[Axis, Mask]:
        """Those that are free once known numbers have gone into biases, the free ones included."""
        return self._where(self._summed_or_folded)

    def reasons(self) -> dict[Axis, dict[str, Mask]]:
        """The free ones by the reason: what is read is zero, or constant, or no one reads it."""
        found = self.found
        zero = self._where(lambda op, axis: self._read(op, axis, True))
        known = self._where(lambda op, axis: self._read(op, axis, False))
        nothing = np.zeros(1, dtype=bool)
        out: dict[Axis, dict[str, Mask]] = {}
        for axis, mask in found.items():
            zeros = mask & zero.get(axis, nothing)
            constant = mask & known.get(axis, nothing) & ~zeros
            out[axis] = {"zero": zeros, "constant": constant, "unread": mask & ~zeros & ~constant}
        return out

    def partly(self) -> dict[Axis, dict[str, Mask]]:
        """Indices that are one number in places and not free, by what they are kept for.

        Of the stream behind a skip, for example, a channel that one branch writes zeros to and
        another does not.
        """
        free = self.found
        begun: dict[Axis, Mask] = {}
        whole: dict[Axis, Mask] = {}
        for value, number in self.known.held():
            if (value.is_weight and len(value.shape) == 1) or value in self.known.made:
                continue  # neither a bias of zero nor states to begin with mask anything
            for axis in {*atoms(self.deps.dims[value][number])} & self._wanted:
                none = np.zeros(axis.size, dtype=bool)
                some = self.known.touched(value, number, axis, free)
                every = self.known.where(value, number, axis, zero=False)
                begun[axis] = begun.get(axis, none) | some
                whole[axis] = whole.get(axis, none) | every
        out: dict[Axis, dict[str, Mask]] = {}
        for axis, mask in begun.items():
            live = ~free.get(axis, np.zeros(axis.size, dtype=bool))
            kept = dict(self._kept_by(axis, whole[axis] & live))
            if (parts := mask & live & ~whole[axis]).any():
                kept[_SOME] = parts
            if kept:
                out[axis] = kept
        return out

    def _kept_by(self, axis: Axis, left: Mask) -> Iterator[tuple[str, Mask]]:
        """What each index is kept for: where it gets other numbers, or who reads or averages it."""
        ways = (
            (self._lost, "get other numbers at"),
            (self._averaged, "are averaged at"),
            (self._contracted, "are read by"),
        )
        for meets, what in ways:
            for op in self._ops if left.any() else ():
                found = left & meets(op, axis)
                if found.any():
                    yield f"{what} {op.module or op.name} ({op.type})", found
                    left = left & ~found

    def _lost(self, op: Op, axis: Axis) -> Mask:
        """Where an operation reads known numbers and its result is not known."""
        out = np.zeros(axis.size, dtype=bool)
        if any(axis in atoms(dim) for dim in self.deps.effects[op].contracts):
            return out
        for value, number in self._holding(op, axis):
            if not value.is_weight:
                out |= self.known.where(value, number, axis, zero=False)
        results = [(v, n) for v in op.outputs for n in self._dims_of(v, axis)]
        for value, number in results:
            out &= ~self.known.where(value, number, axis, zero=False)
        return out if results else np.zeros(axis.size, dtype=bool)

    def _averaged(self, op: Op, axis: Axis) -> Mask:
        mixed = any(axis in atoms(dim) for dim in self.deps.effects[op].mixes)
        return np.full(axis.size, mixed)

    def _contracted(self, op: Op, axis: Axis) -> Mask:
        summed = any(axis in atoms(dim) for dim in self.deps.effects[op].contracts)
        return ~self._summed(op, axis) if summed else np.zeros(axis.size, dtype=bool)

    def _dims_of(self, value: Value, axis: Axis) -> Iterator[int]:
        for number, dim in enumerate(self.deps.dims[value]):
            if axis in atoms(dim):
                yield number

    def _where(self, meets: Callable[[Op, Axis], Mask]) -> dict[Axis, Mask]:
        axes = self.known.axes() & self._wanted
        out = {axis: np.ones(axis.size, dtype=bool) for axis in self._wanted if axis in axes}
        for op in self._ops if out else ():
            effect = self.deps.effects[op]
            for axis in {axis for dim in effect.mixes for axis in atoms(dim)} & out.keys():
                out[axis][:] = False
            for axis in {axis for dim in effect.contracts for axis in atoms(dim)} & out.keys():
                if out[axis].any():
                    out[axis] &= meets(op, axis)
        return {axis: mask for axis, mask in out.items() if mask.any()}

    # --- what an operation meets --------------------------------------------------------------

    def _summed(self, op: Op, axis: Axis) -> Mask:
        """Where an operation meets a zero in all of its sums over an axis."""
        out = np.ones(axis.size, dtype=bool)
        for operands in self.operands(op, axis):
            either = np.zeros(axis.size, dtype=bool)
            for value, number in operands:
                either |= self.known.where(value, number, axis, zero=True)
            out &= either
        return out

    def _read(self, op: Op, axis: Axis, zero: bool) -> Mask:
        """Where what an operation reads is zero, or known, in all of its sums over an axis."""
        out = np.ones(axis.size, dtype=bool)
        for value, number in self._holding(op, axis):
            if not value.is_weight:
                out &= self.known.where(value, number, axis, zero)
        return out

    def _summed_or_folded(self, op: Op, axis: Axis) -> Mask:
        found = self._summed(op, axis)
        return found | self._folded(op, axis) if not found.all() else found

    def _folded(self, op: Op, axis: Axis) -> Mask:
        """Where an operation reads a known number that can go into its bias."""
        none = np.zeros(axis.size, dtype=bool)
        behind = self.linear(op)
        if not isinstance(behind, Linear):
            return none
        read = behind.read
        number = read.channel % len(read.source.shape)
        found = self.known.where(read.source, number, axis, zero=False)
        if not found.any() or axis not in atoms(self.deps.dims[read.source][number]):
            return none
        own = (read.source, read.weight, read.bias)
        others = [(v, d) for v, d in self._holding(op, axis) if v not in own]
        why = self._refuses(op, behind)
        if others or why:
            if why and bool((found & ~self._summed(op, axis)).any()):
                self.left[op.name] = why
            return none
        return found

    def folds(self, op: Op) -> tuple[Value, int] | None:
        """What an operation reads, and along which dimension, if known numbers can be folded."""
        behind = self.linear(op)
        if not isinstance(behind, Linear) or self._refuses(op, behind):
            return None
        return behind.read.source, behind.read.channel % len(behind.read.source.shape)

    def _refuses(self, op: Op, behind: Linear) -> str:
        """Why a known number cannot go into an operation's bias."""
        if op in self.deps.source.training:
            return "only training reaches it"
        if not behind.takes_bias(torch.ones(1)):
            return "it takes no bias"
        return border(op, behind.read, self.deps.source.engine)

    def linear(self, op: Op) -> Linear | str | None:
        """A linear operation whose numbers may change."""
        if op.name not in self._linear:
            self._linear[op.name] = linear(op, self._draft)
        return self._linear[op.name]

    def numbers(self, op: Op) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Which channels a linear operation reads known numbers in, and those numbers."""
        behind = self.linear(op)
        if not isinstance(behind, Linear):
            return None
        source = behind.read.source
        found = self.known.slices(source, behind.read.channel % len(source.shape))
        return None if found is None else (found.mask, found.numbers)

    def whole(self, value: Value) -> tuple[int, torch.Tensor] | None:
        """The numbers of a value all of whose slices along a dimension are known, and which."""
        for number in range(len(value.shape)):
            found = self.known.slices(value, number)
            if found is not None and bool(found.mask.all()):
                return number, found.numbers
        return None

    def operands(self, op: Op, axis: Axis) -> list[list[tuple[Value, int]]]:
        """For each sum of an operation over an axis the values and dimensions that meet in it."""
        pairs = list(self._multiplied(op, axis))
        return pairs or [[(value, number)] for value, number in self._holding(op, axis)]

    def _multiplied(self, op: Op, axis: Axis) -> Iterator[list[tuple[Value, int]]]:
        """The dimensions that meet, for each product that sums over an axis."""
        for product in products(op):
            summed = product.contracted
            read = self._lettered(product.x, product.x_letters, summed, axis)
            weight = self._lettered(product.weight, product.weight_letters, summed, axis)
            if read and product.x in op.outputs:
                # States of a recurrent layer; each result may lack those of some of its parts.
                for value in op.outputs:
                    yield from ([(value, n), *weight] for n in self._dims_of(value, axis))
            elif read or weight:
                yield [*read, *weight]

    def _lettered(
        self,
        value: Value,
        letters: tuple[tuple[str, ...], ...],
        summed: frozenset[str],
        axis: Axis,
    ) -> list[tuple[Value, int]]:
        """The dimensions of an operand that are summed over and hold an axis."""
        held = set(self._dims_of(value, axis))
        return [
            (value, n)
            for n, names in enumerate(letters)
            if n in held and summed.intersection(names)
        ]

    def _holding(self, op: Op, axis: Axis) -> Iterator[tuple[Value, int]]:
        for value in (v for v in op.inputs if v is not None):
            for number in self._dims_of(value, axis):
                yield value, number
