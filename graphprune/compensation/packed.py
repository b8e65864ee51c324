"""packed: matrices of few bits, several in a byte, as `MatMulNBits` of ONNX Runtime reads them.

Integers stand for `(q - zero) * scale`, with a scale for each block of channels of each output. The
first integers of a byte are its lowest bits.

Example:
    The byte 0x2f holds 15 and then 2, of four bits each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch

from graphprune.compensation.forms import Tensors
from graphprune.compensation.rounding import Steps, wholes
from graphprune.core.cuts import Cuts
from graphprune.core.effect import Packing
from graphprune.core.graph import Op, Value
from graphprune.engine.integers import stored

_BYTE = 8


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix that a weight holds in few bits.

    Attributes:
        held: The weight.
        how: How it holds the matrix.
    """

    held: Value
    how: Packing

    dtype = torch.float32

    def numbers(self) -> torch.Tensor:
        """The matrix."""
        shape = self.how.matrix.shape
        scale, zero = self._told(stored, shape)
        blocks = unpacked(stored(self.held), self.how.bits).reshape(*scale.shape[:2], -1)
        return ((blocks - zero) * scale).reshape(shape)

    def steps(self) -> Steps:
        """What the integers can stand for."""
        shape = self.how.matrix.shape
        scale, zero = self._told(stored, shape)
        which = torch.arange(scale.numel()).reshape(scale.shape)
        all_of = (*scale.shape[:2], self.how.block)
        which, least, most = (
            x.expand(all_of).reshape(shape) for x in (which, -zero, self._most - zero)
        )
        return Steps(scale.flatten(), which, least, most, torch.ones(shape, dtype=torch.bool))

    def stored_as(
        self, numbers: torch.Tensor, cuts: Cuts, tensor: Tensors
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """The nearest integers, packed, and what they stand for."""
        scale, zero = self._told(tensor, numbers.shape)
        blocks = numbers.float().reshape(*scale.shape[:2], -1)
        found = (wholes(blocks, scale) + zero).round().clamp(0, self._most)
        near = ((found - zero) * scale).reshape(numbers.shape)
        shape = tensor(self.held).shape
        return {self.held: packed(found, self.how.bits).reshape(shape)}, near

    @property
    def _most(self) -> int:
        return (1 << self.how.bits) - 1

    def _told(self, tensor: Tensors, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scales and zero points, `outputs x blocks x 1`, of a matrix of this shape."""
        outputs, blocks = shape[0], shape[1] // self.how.block
        scale = tensor(self.how.scale).float().reshape(outputs, blocks, 1)
        if self.how.zero is None:
            return scale, torch.full_like(scale, (self._most + 1) // 2)
        zero = tensor(self.how.zero)
        if zero.dtype == torch.uint8:
            zero = unpacked(zero.reshape(outputs, -1), self.how.bits)[:, :blocks]
        return scale, zero.float().reshape(outputs, blocks, 1)


def matrix(op: Op, held: dict[int, Packing]) -> Packed | None:
    """The matrix that an operation multiplies by, where a weight holds it in few bits."""
    for place, how in held.items():
        weight = op.inputs[place]
        told = [v for v in (weight, how.scale, how.zero) if v is not None]
        known = all(v.is_weight and isinstance(v.tensor, torch.Tensor) for v in told)
        if weight is not None and known and prod(weight.shape) * _BYTE == _bits(how):
            return Packed(weight, how)
    return None


def _bits(how: Packing) -> int:
    return prod(how.matrix.shape) * how.bits


def unpacked(held: torch.Tensor, bits: int) -> torch.Tensor:
    """The integers that bytes hold, in float32; their last dimension is so much longer."""
    shifts = torch.arange(0, _BYTE, bits)
    found = (held.int()[..., None] >> shifts) & ((1 << bits) - 1)
    return found.flatten(-2).float()


def packed(integers: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of `unpacked`."""
    each = _BYTE // bits
    parts = integers.int().reshape(*integers.shape[:-1], -1, each)
    return (parts << torch.arange(0, _BYTE, bits)).sum(-1).to(torch.uint8)
