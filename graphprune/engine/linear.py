"""Linear operations and scalings of a draft as numbers, in double precision, and back as steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from graphprune.core.graph import Evaluator, Op, Value
from graphprune.core.rewrites import Draft, Step, Weigh
from graphprune.rules.facts import Reading, Scaling, epsilon, is_batch_norm, reading

_PROBES = (0.0, 1.0, -2.5)  # at which an operation shows whether it is a scale and a shift
_EQUAL = 1e-12  # relative difference that rounding in double precision explains


@dataclass(frozen=True)
class Linear:
    """A linear operation whose weights are its own: `y = W x + b`.

    Attributes:
        op: The operation.
        read: Its operands.
        weight: W as `groups x outputs x channels x taps…`.
        bias: b, one number for each output; None where there is none.
    """

    op: Op
    read: Reading
    weight: torch.Tensor
    bias: torch.Tensor | None

    @property
    def outputs(self) -> int:
        """How many outputs there are, of all groups."""
        return self.weight.shape[0] * self.weight.shape[1]

    @property
    def channels(self) -> int:
        """How many channels are read, by all groups."""
        return self.weight.shape[0] * self.weight.shape[2]

    def result(self) -> tuple[Value, int]:
        """y, and which of its dimensions holds the outputs."""
        y = self.op.outputs[0]
        return y, self.read.output % len(y.shape)

    def over_outputs(self, numbers: torch.Tensor) -> torch.Tensor:
        """Numbers of the outputs, or one for all, so that they broadcast against W."""
        if numbers.dim():
            numbers = numbers.reshape(*self.weight.shape[:2])
        return numbers.reshape(*numbers.shape, *[1] * (self.weight.dim() - numbers.dim()))

    def over_channels(self, numbers: torch.Tensor) -> torch.Tensor:
        """Numbers of the channels, or one for all, so that they broadcast against W."""
        if not numbers.dim():
            return numbers
        groups, _, channels, *taps = self.weight.shape
        return numbers.reshape(groups, 1, channels, *[1] * len(taps))

    def steps(self, weight: torch.Tensor, bias: torch.Tensor | None) -> tuple[Step, ...]:
        """Give the operation other numbers, in the layout and type of the present ones.

        Args:
            weight: W, laid out as the present one.
            bias: b; one that is all zero is not given to an operation that has none.
        """
        read, op = self.read, self.op
        old = read.weight.tensor
        if read.inner == 0:
            weight = weight.transpose(1, 2)
        flat = weight.reshape(-1, *weight.shape[2:])
        laid = flat[..., 0] if flat.dim() > old.dim() else flat
        place = op.inputs.index(read.weight)
        steps: list[Step] = [Weigh(op.name, place, laid.to(old).contiguous())]
        if bias is not None and (self.bias is not None or bool(bias.any())):
            assert read.bias_at is not None, "a bias is given where one can be"
            held = None if read.bias is None else read.bias.tensor
            own = bias.to(old if held is None else held)
            if held is not None and held.numel() == own.numel():
                own = own.reshape(held.shape)
            steps.append(Weigh(op.name, read.bias_at, own.contiguous()))
        return tuple(steps)

    def takes_bias(self, bias: torch.Tensor) -> bool:
        """Whether a bias can be given to the operation, or would be zero."""
        return self.read.bias_at is not None or not bool(bias.any())


def linear(op: Op, draft: Draft) -> Linear | str | None:
    """A linear operation whose numbers may change; a reason where they may not, None for others."""
    read = reading(op)
    if not isinstance(read, Reading):
        return read
    if len(op.outputs) != 1:
        return "it has several results"
    readers = draft.readers()
    held = (read.weight,) if read.bias is None else (read.weight, read.bias)
    for value in held:
        if not value.is_weight:
            return "its weights are computed"
        if value.tensor is None or not value.tensor.is_floating_point():
            return "its weights are no floating-point numbers"
        if len(readers.get(value, ())) > 1:
            return f"{value.name} is read in several places"
    if read.product or (read.bias is not None and read.bias_at is None):
        return "it is no plain product with stored weights"
    return _laid_out(op, read)


def _laid_out(op: Op, read: Reading) -> Linear:
    weight = read.weight.tensor.detach().double()
    weight = weight.reshape(read.groups, -1, *weight.shape[1:])
    if read.inner == 0:
        weight = weight.transpose(1, 2)
    if read.bias is None:
        return Linear(op, read, weight, None)
    outputs = weight.shape[0] * weight.shape[1]
    bias = read.bias.tensor.detach().double().reshape(-1).expand(outputs)
    return Linear(op, read, weight, bias)


def numbers(op: Op, found: Scaling, engine: Evaluator) -> tuple[torch.Tensor, torch.Tensor] | None:
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
    operands = [None if v is None else v.tensor for v in op.inputs]
    if any(x is None for i, x in enumerate(operands) if i != found.place and op.inputs[i]):
        return None
    device = next((x.device for x in operands if x is not None), torch.device("cpu"))

    def at(x: float) -> torch.Tensor:
        drawn = torch.full(shape, x, dtype=torch.float64, device=device)
        given = [
            drawn if i == found.place else None if y is None else y.detach().double()
            for i, y in enumerate(operands)
        ]
        result: torch.Tensor = engine.evaluate(op, given, {}, torch.float64)[0]
        return result.reshape(-1).double()

    zero, one, other = (at(x) for x in _PROBES)
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


def _of_batch_norm(op: Op) -> tuple[torch.Tensor, torch.Tensor] | None:
    tensors: list[Any] = [None if v is None else v.tensor for v in op.inputs]
    gain, offset, mean, variance = (
        None if x is None else x.detach().double() for x in tensors[1:5]
    )
    if mean is None or variance is None:
        return None
    scale = (variance + epsilon(op)).rsqrt()
    if gain is not None:
        scale = scale * gain
    shift = -mean * scale
    return scale, shift if offset is None else shift + offset


def meets_no_border(op: Op, read: Reading, engine: Evaluator) -> bool:
    """Whether a linear operation adds nothing of its own at the borders of what it reads.

    It is asked itself: what it makes of a constant input is constant over all places.
    """
    x, y = read.source, op.outputs[0]
    if not read.windows:
        return True
    shape = [1 if at == 0 and len(x.shape) > 2 else size for at, size in enumerate(x.shape)]
    weight = torch.ones_like(read.weight.tensor, dtype=torch.float64)
    given = [
        torch.ones(shape, dtype=torch.float64, device=weight.device)
        if value is x
        else weight
        if value is read.weight
        else None
        if value is None
        else torch.zeros(value.shape, dtype=torch.float64, device=weight.device)
        for value in op.inputs
    ]
    found: torch.Tensor = engine.evaluate(op, given, {}, torch.float64)[0]
    rows = found.movedim(read.output % len(y.shape), 0).flatten(1)
    return bool((rows == rows[:, :1]).all())
