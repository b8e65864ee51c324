"""Scales and shifts of a draft as numbers, in double precision, and back as steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from graphprune.core.graph import Op, Value
from graphprune.core.rewrites import Draft, Step, Weigh
from graphprune.engine.engine import tried
from graphprune.engine.run import along
from graphprune.rules.facts import adds, is_random, moves, multiplies
from graphprune.rules.scalings import Scaling, epsilon, is_batch_norm, scaling

_PROBES = (0.0, 1.0, -2.5)  # at which an operation shows whether it is a scale and a shift
_EQUAL = 1e-12  # relative difference that rounding in double precision explains


@dataclass(frozen=True)
class Scale:
    """An operation `y = s x + t` and its numbers.

    Attributes:
        op: The operation.
        found: Its operands.
        scale: s: a number for each channel, or one for all.
        shift: t, likewise.
    """

    op: Op
    found: Scaling
    scale: torch.Tensor
    shift: torch.Tensor

    def steps(self, scale: torch.Tensor, shift: torch.Tensor) -> tuple[Step, ...] | None:
        """Give the operation other numbers; None where it cannot hold them.

        A batch norm holds any: `g = s sqrt(v + e)`, `b = t + m s`. A product holds scales, a sum
        shifts.
        """
        op, place = self.op, self.found.place
        if is_batch_norm(op):
            return _as_batch_norm(op, scale, shift)
        others = [i for i, v in enumerate(op.inputs) if v is not None and i != place]
        if len(others) != 1:
            return None
        at = others[0]
        held = op.inputs[at]
        assert held is not None
        if not held.is_weight or not held.is_readable:
            return None
        if multiplies(op) and not bool(shift.any()):
            return (Weigh(op.name, at, self._laid(scale, held)),)
        if adds(op) and bool((scale == 1).all()):
            return (Weigh(op.name, at, self._laid(shift, held)),)
        return None

    def _laid(self, numbers: torch.Tensor, held: Value) -> torch.Tensor:
        """Numbers in the shape and type of those that an operation holds."""
        if numbers.numel() == held.tensor.numel():
            return numbers.reshape(held.shape).to(held.tensor)
        at, rank = self.found.channel, len(self.op.outputs[0].shape)
        behind = 0 if at is None else rank - 1 - at
        return numbers.reshape(-1, *[1] * behind).to(held.tensor)


def is_one(scale: Scale) -> bool:
    """Whether it hands on what it reads: a factor of one, a summand of zero."""
    return bool((scale.scale == 1).all()) and not bool(scale.shift.any())


def scale_of(draft: Draft, op: Op) -> Scale | None:
    """What an operation multiplies by and adds, if that is stored, and all that it does."""
    found = scaling(op, lambda value: stored(draft, value) is not None)
    known = None if found is None else numbers(draft, op, found)
    return None if found is None or known is None else Scale(op, found, *known)


def stored(draft: Draft, value: Value) -> torch.Tensor | None:
    """The numbers of a value that follows from what the model stores; None for any other."""
    if value.is_weight:
        tensor: torch.Tensor | None = value.tensor
        return tensor
    maker = draft.makers().get(value)
    if maker is None or not maker.inputs or is_random(maker) or not moves(maker):
        return None
    operands = [None if v is None else stored(draft, v) for v in maker.inputs]
    if any(x is None for x, v in zip(operands, maker.inputs, strict=True) if v is not None):
        return None
    given = [None if x is None else x.detach().double() for x in operands]
    results = tried(draft.source.engine, maker, given, torch.float64)
    return None if results is None else results[maker.outputs.index(value)]


def numbers(draft: Draft, op: Op, found: Scaling) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The scale and the shift of an operation: a number for each channel, or one for all.

    `s = g / sqrt(v + e)` and `t = b - m s` for a batch norm of gain g, offset b, mean m and
    variance v (Ioffe & Szegedy, 2015, algorithm 2); the operation itself tells those of any other.
    None where it is no scaling after all, such as a division by what is computed.
    """
    if is_batch_norm(op):
        return _of_batch_norm(op)
    rank = len(found.source.shape)
    size = 1 if found.channel is None else found.source.shape[found.channel]
    shape = [size if at == found.channel else 1 for at in range(rank)]
    operands = [
        None if v is None or i == found.place else stored(draft, v) for i, v in enumerate(op.inputs)
    ]
    device = next((x.device for x in operands if x is not None), torch.device("cpu"))

    def at(x: float) -> torch.Tensor | None:
        drawn = torch.full(shape, x, dtype=torch.float64, device=device)
        given = [
            drawn if i == found.place else None if y is None else y.detach().double()
            for i, y in enumerate(operands)
        ]
        results = tried(draft.source.engine, op, given, torch.float64)
        return None if results is None else results[0].reshape(-1).double()

    zero, one, other = (at(x) for x in _PROBES)
    if zero is None or one is None or other is None:
        return None
    scale, shift = one - zero, zero
    if not bool(torch.isfinite(torch.cat([zero, one, other])).all()):
        return None
    if scale.numel() != size or not _close(other, _PROBES[2] * scale + shift):
        return None
    if bool((scale - scale.round()).abs().max() < _EQUAL * (1 + shift.abs().max())):
        scale = scale.round()  # sums lose the last digits of a factor of one
    return (scale, shift) if found.channel is not None else (scale[0], shift[0])


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a - b).abs() <= 1e3 * _EQUAL * (a.abs() + b.abs() + 1e-30)).all())


def _held(op: Op) -> list[torch.Tensor | None]:
    """Gain, offset, mean and variance of a batch norm."""
    tensors: list[Any] = [None if v is None else v.tensor for v in op.inputs[1:5]]
    return [None if x is None else x.detach().double() for x in tensors]


def _of_batch_norm(op: Op) -> tuple[torch.Tensor, torch.Tensor] | None:
    gain, offset, mean, variance = _held(op)
    if mean is None or variance is None:
        return None
    scale = (variance + epsilon(op)).rsqrt()
    if gain is not None:
        scale = scale * gain
    shift = -mean * scale
    return scale, shift if offset is None else shift + offset


def _as_batch_norm(op: Op, scale: torch.Tensor, shift: torch.Tensor) -> tuple[Step, ...] | None:
    gain, offset, mean, variance = _held(op)
    if gain is None or offset is None or mean is None or variance is None:
        return None
    held = op.inputs[1], op.inputs[2]
    new = scale * (variance + epsilon(op)).sqrt(), shift + mean * scale
    return tuple(
        Weigh(op.name, place, numbers.expand(mean.shape).to(value.tensor).contiguous())
        for place, value, numbers in zip((1, 2), held, new, strict=True)
        if value is not None
    )


def carried(draft: Draft, value: Value, channel: int | None) -> tuple[Value, int | None] | None:
    """Where the elements of a value come from, through operations that move them and no more.

    Args:
        draft: The graph.
        value: The value.
        channel: Its dimension along which something varies, or None.

    Returns:
        The first value of the way that nothing but a movement reads, and the dimension of it along
        which the same varies; None where nothing moves, or where several dimensions do.
    """
    way: list[Op] = []
    source = value
    while True:
        maker = draft.makers().get(source)
        if maker is None or not moves(maker) or is_random(maker) or len(maker.outputs) != 1:
            break
        before = maker.inputs[0]
        rest = [v for v in maker.inputs[1:] if v is not None and not v.is_weight]
        if before is None or rest or before.is_weight or len(draft.readers()[before]) != 1:
            break
        way.insert(0, maker)
        source = before
    if not way or channel is None:
        return (source, None) if way else None
    for at, size in enumerate(source.shape):
        if size == value.shape[channel] and _lands(draft, way, source, at, value, channel):
            return source, at
    return None


def _lands(draft: Draft, way: list[Op], source: Value, at: int, value: Value, channel: int) -> bool:
    """Whether the indices of one dimension come to be those of another."""

    def counted(whose: Value, dim: int) -> torch.Tensor:
        index = torch.arange(whose.shape[dim], dtype=torch.float64)
        shape = [-1 if i == dim else 1 for i in range(len(whose.shape))]
        return index.reshape(shape).expand(whose.shape)

    made = along(draft.source, way, source, counted(source, at).contiguous())
    wanted = counted(value, channel)
    return made.shape == wanted.shape and bool((made == wanted).all())
