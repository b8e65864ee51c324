"""consumer: a linear operation whose weight can make up for the channels that are removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from graphprune.compensation.forms import Written
from graphprune.compensation.grid import numbers
from graphprune.core.effect import Encoding
from graphprune.core.graph import Op, Value
from graphprune.engine.run import Run
from graphprune.rules.readings import folded
from graphprune.rules.scalings import epsilon


class Unsolvable(Exception):
    """An operation's weights cannot be solved for; the message is the reason, for the report."""


@dataclass(frozen=True, eq=False)
class Consumer:
    """One linear operation `y = W x + b`, or one of several in a recurrent operation.

    Attributes:
        op: The operation.
        value: x; the operation's own result where W is applied to a recurrent state.
        weight: W, a parameter or computed from such alone; it is handled as `groups x outputs x
            channels x taps`.
        bias: b, of one dimension, a parameter or computed from such alone; None where there is
            none. Of a stacked layer it holds two for each direction, one behind the other.
        norm: The batch norm that is the only reader of y; None where there is none.
        channel: The dimension of `value` that is summed over.
        inner: The dimension of `weight` that is summed over.
        groups: Number of groups of a grouped convolution.
        uses: Number of operations with this weight, all of which use it alike.
        computed: Whether b is computed by the graph, so that no constant can be added to it.
        written: What W is computed from; None where it is stored itself.
        encoding: How the integers of `value` stand for numbers; None where it holds numbers.
        added: What b is computed from; None where it is stored itself.
        gain: What is added to b for y to grow by one.
        step: The step of W's integers that is its own, so that it may change.
        follow: Steps that are multiples of it: of b's integers, and those of W once more.
        stack: The dimension of W that holds several matrices: directions of a recurrent layer,
            experts. They are handled as if they were outputs, or groups where each reads a part of
            x of its own. None where W is one matrix, or a kernel.
        half: Of a stacked recurrent layer, which of the two biases is b: 0 or 1. None for others.
        beside: The dimension of `value` that holds the groups ahead of their channels; None where
            `channel` holds both.
        runs: What says where the rows of x end that each matrix reads; None where they stand
            otherwise. x is then handled with the matrices in front, each with as many rows as the
            longest run has, of which those behind its own are zero.
    """

    op: Op
    value: Value
    weight: Value
    bias: Value | None
    norm: Op | None
    channel: int
    inner: int
    groups: int = 1
    uses: int = 1
    computed: bool = False
    written: Written | None = None
    encoding: Encoding | None = None
    added: Written | None = None
    gain: float = 1.0
    step: Value | None = None
    follow: tuple[Value, ...] = ()
    stack: int | None = None
    half: int | None = None
    beside: int | None = None
    runs: Value | None = None

    def numbers(self) -> torch.Tensor:
        """The numbers of W."""
        if self.written is not None:
            return self.written.numbers()
        held: torch.Tensor = self.weight.tensor.detach()
        return held

    def values(self, run: Run) -> list[torch.Tensor]:
        """The numbers of x in a run, chunk by chunk."""
        held = run.values(self.value)
        if self.runs is not None:
            return [_by_runs(x, ends) for x, ends in zip(held, run.values(self.runs), strict=True)]
        return held if self.encoding is None else numbers(held, self.encoding, run)

    @property
    def shifts(self) -> bool:
        """Whether a constant can be added to y: to the bias, or to the mean of the batch norm."""
        return self.bias is not None or self.norm is not None

    def taps(self, weight: torch.Tensor) -> torch.Tensor:
        """A tensor of the weight's shape as `groups x outputs x channels x taps`."""
        if self.stack is not None:
            weight = weight.permute(self._stacked)
            return folded(weight.flatten(0, 1), 1, self.groups)
        return folded(weight, self.inner, self.groups)

    def weight_of(self, taps: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor:
        """The inverse of `taps`."""
        if self.stack is not None:
            outputs = self.weight.shape[self._stacked[1]]
            weight = taps.reshape(-1, outputs, taps.shape[2])
            return weight.permute([self._stacked.index(at) for at in range(3)])
        taps = taps.reshape(*taps.shape[:3], *kernel)
        if self.weight_is_transposed:
            taps = taps.transpose(1, 2)
        return taps.flatten(0, 1)

    @property
    def _stacked(self) -> tuple[int, int, int]:
        """The dimensions of a stacked weight that hold the matrices, outputs and channels."""
        assert self.stack is not None
        return self.stack, 3 - self.stack - self.inner, self.inner

    @property
    def weight_is_transposed(self) -> bool:
        """Whether the weight holds channels before outputs."""
        return self.inner == 0

    @property
    def kernel(self) -> tuple[int, ...]:
        """The lengths of a convolution's kernel; empty for a matrix."""
        return () if self.stack is not None else self.weight.shape[2:]

    def gains(self, tensor: Callable[[Value], torch.Tensor]) -> torch.Tensor:
        """The factor |gain| / √(variance + eps) of the batch norm after each output, or 1.

        Args:
            tensor: Returns the tensor of a weight.

        Returns:
            `outputs`, in float64.
        """
        if self.stack is not None:
            matrices, outputs, _ = (self.weight.shape[at] for at in self._stacked)
            return torch.ones(matrices * outputs, dtype=torch.float64)
        outputs = self.weight.shape[1 - self.inner] * (self.groups if self.inner == 0 else 1)
        if self.norm is None:
            return torch.ones(outputs, dtype=torch.float64)
        _, gain, _, _, variance = self.norm.inputs[:5]
        assert variance is not None
        scale: torch.Tensor = (tensor(variance).double() + epsilon(self.norm)).rsqrt()
        return scale if gain is None else scale * tensor(gain).double().abs()


def _by_runs(x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """Runs of rows one behind the other as `runs x rows x channels`, filled up with zeros."""
    ends = ends.long()
    runs = ends.diff(prepend=ends.new_zeros(1))
    place = torch.arange(int(runs.max()), device=x.device)
    rows = (ends - runs)[:, None] + place
    own = place < runs[:, None]
    return x[rows.clamp_max(len(x) - 1)] * own[:, :, None]
