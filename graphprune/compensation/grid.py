"""grid: weights that are stored as integers, and what they stand for: `(q - zero point) * scale`.

Numbers of eight bits of floating point are multiplied by a scale alike, and are no whole numbers.

Such a weight is solved for as the numbers that it stands for, one layer at a time, and goes back to
integers, with the zero point that it has. `rounding` says which integers are taken, and by which
step. Numbers beyond the last integer become that one.

Weights that are stored as numbers, and rounded to integers and back where they are read (training
that knows of quantization), are stored as the numbers that these integers stand for.

Example:
    scale 0.1, zero point 0: a solution of 0.26 is stored as 3, which stands for 0.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch

from graphprune.compensation.forms import Moved, within
from graphprune.compensation.rounding import Steps, wholes
from graphprune.core.cuts import Cuts
from graphprune.core.effect import Encoding
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine import integers
from graphprune.engine.integers import Held
from graphprune.engine.run import Run
from graphprune.rules.registry import stated

_ENDS = {"int4": (-8, 7), "uint4": (0, 15), "int2": (-2, 1), "uint2": (0, 3)}
"""Of types that stand in a wider one."""
_KINDS = ("int8", "uint8", "int16", "uint16", "int32")


@dataclass(frozen=True, eq=False)
class Grid:
    """The integers that stand for a weight.

    Attributes:
        stored: The integers, a weight of the graph or moved from one; or the numbers that are
            rounded to them.
        how: How they stand for numbers.
        kind: Their type.
        again: The steps by which numbers are rounded to them, the same once more.
        moved: What moves them, where they are not stored as they are read.
    """

    stored: Value
    how: Encoding
    kind: str
    again: tuple[Value, ...] = ()
    moved: Moved | None = None

    def scaled(self, factor: Value) -> Grid | None:
        """The integers with another factor behind them; None where that has its own dimension."""
        how, rank = self.how, len(self.stored.shape)
        several = prod(factor.shape) > 1
        if several and len(factor.shape) == 1:
            if how.held and how.dim != rank - 1:
                return None
            how = replace(how, dim=rank - 1)
        elif several and len(factor.shape) != rank:
            return None
        if how.block:
            return None
        return replace(self, how=replace(how, scales=(*how.scales, factor)))

    def equals(self, other: Grid) -> bool:
        """Whether the same integers stand for the same numbers."""
        pairs = zip(self._laid(), other._laid(), strict=True)
        return self.stored is other.stored and all(torch.equal(a, b) for a, b in pairs)

    def numbers(self) -> torch.Tensor:
        """What the integers stand for, in float32."""
        scale, _ = self._laid()
        found: torch.Tensor = self._apart() * scale
        return found

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it is solved for."""
        return torch.float32

    def stored_as(
        self, numbers: torch.Tensor, cuts: Cuts, tensor: Callable[[Value], torch.Tensor]
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """The integers nearest to the numbers of a narrowed weight, and what they stand for."""
        scale, zero = self._laid(tensor, numbers.shape)
        if self._floats:
            found = within(numbers / scale + zero, self.stored.tensor.dtype).float()
        else:
            found = (wholes(numbers.double(), scale.double()) + zero).clamp(*self._ends)
        near = (found.float() - zero) * scale
        if self.moved is not None:
            back, _ = self.moved.stored_as(found, cuts, tensor)
            return {value: x.to(value.tensor.dtype) for value, x in back.items()}, near
        rounds = self.stored.tensor.is_floating_point() and not self._floats
        held = near if rounds else found
        return {self.stored: held.to(self.stored.tensor.dtype)}, near

    def steps(self) -> Steps | None:
        """What its integers can stand for, in the weight's shape; None where it holds others.

        None is farther from zero than those that it has: where these are of seven bits, kernels
        may add up products of eight without room for more.
        """
        if self._floats:
            return None
        shape = self.stored.shape
        _, zero = self._laid()
        apart = self._apart()
        reach = apart.abs().amax() if apart.numel() else torch.zeros(())
        least, most = ((end - zero).clamp(-reach, reach).expand(shape) for end in self._ends)
        scale, _ = integers.steps(self.how, len(shape))
        which = torch.arange(scale.numel()).reshape(scale.shape)
        which = integers.spread(which, self.how, shape).expand(shape)
        return Steps(scale.flatten(), which, least, most, torch.ones(shape, dtype=torch.bool))

    def _apart(self) -> torch.Tensor:
        """By how many steps each integer is apart from what stands for zero."""
        scale, zero = self._laid()
        held = self.stored.tensor.detach() if self.moved is None else self.moved.numbers()
        rounds, held = held.is_floating_point() and not self._floats, held.float()
        if rounds:
            held = (wholes(held, scale) + zero).clamp(*self._ends)
        return held - zero

    @property
    def _floats(self) -> bool:
        """Whether numbers of eight bits of floating point stand where integers do."""
        return self.kind.startswith("float8")

    @property
    def _ends(self) -> tuple[int, int]:
        if self.kind in _ENDS:
            return _ENDS[self.kind]
        whole = torch.iinfo(getattr(torch, self.kind))
        return whole.min, whole.max

    def _laid(
        self, held: Held = integers.stored, shape: Sequence[int] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point, so that they broadcast against the weight, or what stays of it."""
        told = integers.steps(self.how, len(self.stored.shape), held)
        scale, zero = (integers.spread(x, self.how, shape or self.stored.shape) for x in told)
        return scale, zero


def numbers(stored: Sequence[torch.Tensor], how: Encoding, run: Run) -> list[torch.Tensor]:
    """What integers of a run stand for, chunk by chunk.

    Args:
        stored: The integers.
        how: How they stand for numbers.
        run: The run, which holds the scales and zero points that are computed.
    """
    told = {value: run.each(value) for value in how.held}
    return [
        integers.numbers(x, how, {v: parts[number] for v, parts in told.items()}.__getitem__)
        for number, x in enumerate(stored)
    ]


def grid(
    op: Op,
    deps: Dependencies,
    uses: Counter[Value],
    makers: Mapping[Value, Op],
    moved: Mapping[Value, Moved],
) -> Grid | None:
    """What an operation reads, if it turns stored integers into numbers and does nothing else.

    Args:
        op: The operation.
        deps: The analysis.
        uses: How many operands of operations each value is.
        makers: What each result is of.
        moved: Integers that are moved from where they are stored.
    """
    how = deps.effects[op].encodings.get(0)
    stored = op.inputs[0] if op.inputs else None
    if how is None or stored is None or not stated(op).elementwise or uses[stored] != 1:
        return None
    if op.outputs[0].shape != stored.shape:
        return None
    maker = makers.get(stored)
    if maker is None or stored in moved:
        return whole(stored, how, moved)
    return _rounded(maker, stored, how, deps, uses)


def _rounded(
    op: Op, integers: Value, how: Encoding, deps: Dependencies, uses: Counter[Value]
) -> Grid | None:
    """A weight whose numbers an operation rounds to integers, by the steps of those who read them.

    Args:
        op: The operation.
        integers: Its result.
        how: How they are taken to stand for numbers.
        deps: The analysis.
        uses: How many operands of operations each value is.
    """
    made = deps.effects[op].made.get(0)
    stored = op.inputs[0]
    if made is None or stored is None or stored.kind != "parameter" or uses[stored] != 1:
        return None
    for value in (stored, *how.held, *made.held):
        if not value.is_weight or not isinstance(value.tensor, torch.Tensor):
            return None
    found = Grid(stored, how, integers.dtype, made.scales)
    if not stored.tensor.is_floating_point() or integers.dtype not in (*_ENDS, *_KINDS):
        return None
    return found if found.equals(Grid(stored, made, integers.dtype)) else None


def whole(stored: Value, how: Encoding, moved: Mapping[Value, Moved]) -> Grid | None:
    """A weight as the integers that it holds; None where it holds none, or steps are computed.

    Args:
        stored: The integers.
        how: How they stand for numbers.
        moved: Integers that are moved from where they are stored.
    """
    for value in (moved[stored].source if stored in moved else stored, *how.held):
        if not value.is_weight or not isinstance(value.tensor, torch.Tensor):
            return None
    if stored in moved:
        return Grid(stored, how, stored.dtype, moved=moved[stored])
    kind = stored.tensor.dtype
    few = kind.itemsize == 1  # eight bits of floating point
    integers = (few or not kind.is_floating_point) and not kind.is_complex
    return Grid(stored, how, stored.dtype) if integers and stored.kind == "parameter" else None
