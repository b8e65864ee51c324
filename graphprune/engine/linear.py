"""Linear operations of a draft as numbers, in double precision, and back as steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from graphprune.core.graph import Evaluator, Op, Value
from graphprune.core.rewrites import Draft, Step, Weigh
from graphprune.rules.readings import Reading, folded, reading

BORDER = "it pads with zeros, which a constant does not reach"
APART = "each of its results is read through some of its taps: a constant does not stay one"
_PLACES = 23  # along each dimension, at which taps meet the border and the middle


@dataclass(frozen=True)
class Linear:
    """A linear operation whose weights are its own: `y = W x + b`.

    Attributes:
        op: The operation.
        read: Its operands.
    """

    op: Op
    read: Reading

    @cached_property
    def weight(self) -> torch.Tensor:
        """W as `groups x outputs x channels x taps…`."""
        weight: torch.Tensor = self.read.weight.tensor.detach().double()
        weight = weight.reshape(self.read.groups, -1, *weight.shape[1:])
        return weight.transpose(1, 2) if self.read.inner == 0 else weight

    @cached_property
    def bias(self) -> torch.Tensor | None:
        """b, one number for each output; None where there is none."""
        if self.read.bias is None:
            return None
        bias: torch.Tensor = self.read.bias.tensor.detach().double().reshape(-1)
        return bias.expand(self.outputs)

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
        laid = self._plain(weight)
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

    def response(self, weight: torch.Tensor, x: torch.Tensor, engine: Evaluator) -> torch.Tensor:
        """What the operation makes of another input with other weights, and no bias.

        Args:
            weight: Weights of any number of outputs and channels, laid out as the present ones.
            x: The input.
            engine: What runs the operation.
        """
        read, op = self.read, self.op
        laid = self._plain(weight)
        outputs = weight.shape[0] * weight.shape[1]
        given = [
            x
            if value is read.source
            else laid
            if value is read.weight
            else torch.zeros(outputs).to(laid)
            if value is read.bias and value is not None
            else None
            for value in op.inputs
        ]
        found: torch.Tensor = engine.evaluate(op, given, {}, torch.float64)[0]
        return found

    def small_input(self, channels: int) -> torch.Tensor:
        """Random numbers to read: so many channels a group, more places than taps reach."""
        read, groups = self.read, self.weight.shape[0]
        shape = [min(size, 2) for size in read.source.shape]
        if read.windows:
            shape = [1, *[_PLACES] * (len(shape) - 1)]
        shape[read.channel] = groups * channels
        drawn = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return drawn.to(self.weight.device)

    def _plain(self, weight: torch.Tensor) -> torch.Tensor:
        """Weights as the operation reads them."""
        if self.read.inner == 0:
            weight = weight.transpose(1, 2)
        return weight.reshape(-1, *weight.shape[2:])

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
        read_by = [None if one is None else one[0] for one in readers.get(value, ())]
        if len(read_by) > 1:
            trained = all(one is op or one in draft.source.training for one in read_by)
            places = "training mode too, which does more" if trained else "several places"
            return f"{value.name} is read in {places}"
    if read.product or (read.bias is not None and read.bias_at is None):
        return "it is no plain product with stored weights"
    return Linear(op, read)


def border(op: Op, read: Reading, engine: Evaluator) -> str:
    """Why a linear operation makes no constant of one, or nothing: y = (sum of all taps) x.

    It is asked itself: what taps of one make of a constant input of one. Sums of ones are exact
    in whichever precision the engine is quick.
    """
    x, y = read.source, op.outputs[0]
    if not read.windows:
        return ""
    shape = [1 if at == 0 and len(x.shape) > 2 else size for at, size in enumerate(x.shape)]
    weight = torch.ones_like(read.weight.tensor, dtype=engine.dtype)
    given = [
        torch.ones(shape, dtype=engine.dtype, device=weight.device)
        if value is x
        else weight
        if value is read.weight
        else None
        if value is None
        else torch.zeros(value.shape, dtype=engine.dtype, device=weight.device)
        for value in op.inputs
    ]
    found: torch.Tensor = engine.evaluate(op, given, {}, engine.dtype)[0]
    rows = found.movedim(read.output % len(y.shape), 0).flatten(1)
    if bool((rows != rows[:, :1]).any()):
        return BORDER
    taps = folded(weight, read.inner, read.groups)[0, 0].numel()
    return "" if bool((rows == taps).all()) else APART
