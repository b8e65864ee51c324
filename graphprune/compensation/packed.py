"""packed: matrices of few bits, several in a byte, as `MatMulNBits` of ONNX Runtime reads them.

Integers stand for `(q - zero) * scale`, with a scale for each block of channels of each output.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch

from graphprune.compensation.forms import Tensors
from graphprune.compensation.rounding import Steps, wholes
from graphprune.core.cuts import Cuts
from graphprune.core.effect import Packing
from graphprune.core.graph import Op, Value
from graphprune.engine.bits import BYTE, packed, told, unpacked
from graphprune.engine.integers import stored


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
        scale, zero = told(self.how, shape)
        blocks = unpacked(stored(self.held), self.how.bits).reshape(*scale.shape[:2], -1)
        return ((blocks - zero) * scale).reshape(shape)

    def steps(self) -> Steps:
        """What the integers can stand for."""
        shape = self.how.matrix.shape
        scale, zero = told(self.how, shape)
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
        scale, zero = told(self.how, numbers.shape, tensor)
        blocks = numbers.float().reshape(*scale.shape[:2], -1)
        found = (wholes(blocks, scale) + zero).round().clamp(0, self._most)
        near = ((found - zero) * scale).reshape(numbers.shape)
        shape = tensor(self.held).shape
        return {self.held: packed(found, self.how.bits).reshape(shape)}, near

    @property
    def _most(self) -> int:
        return (1 << self.how.bits) - 1


def matrix(op: Op, held: dict[int, Packing]) -> Packed | None:
    """The matrix that an operation multiplies by, where a weight holds it in few bits."""
    for place, how in held.items():
        weight = op.inputs[place]
        held_by = [v for v in (weight, how.scale, how.zero) if v is not None]
        known = all(v.is_weight and isinstance(v.tensor, torch.Tensor) for v in held_by)
        if weight is not None and known and prod(weight.shape) * BYTE == _bits(how):
            return Packed(weight, how)
    return None


def _bits(how: Packing) -> int:
    return prod(how.matrix.shape) * how.bits
