"""bits: integers of few bits, several in a byte. The first of a byte are its lowest bits.

Example:
    The byte 0x2f holds 15 and then 2, of four bits each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphprune.core.effect import Packing
from graphprune.engine.integers import Held, stored

BYTE = 8


def told(
    how: Packing, shape: Sequence[int], held: Held = stored
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points, `outputs x blocks x 1`.

    Args:
        how: How a matrix is held.
        shape: Its shape.
        held: Gives the tensor of a scale or zero point.
    """
    outputs, blocks = shape[0], shape[1] // how.block
    scale = held(how.scale).float().reshape(outputs, blocks, 1)
    if how.zero is None:
        return scale, torch.full_like(scale, 1 << (how.bits - 1))
    zero = held(how.zero)
    if zero.dtype == torch.uint8:
        zero = unpacked(zero.reshape(outputs, -1), how.bits)[:, :blocks]
    return scale, zero.float().reshape(outputs, blocks, 1)


def norms(bytes_: torch.Tensor, how: Packing) -> torch.Tensor:
    """The norm of the numbers that each byte holds, in the shape of the bytes."""
    scale, zero = told(how, how.matrix.shape)
    blocks = unpacked(bytes_, how.bits).reshape(*scale.shape[:2], -1)
    numbers = ((blocks - zero) * scale).reshape(*bytes_.shape, BYTE // how.bits)
    found: torch.Tensor = torch.linalg.vector_norm(numbers, dim=-1)
    return found


def unpacked(held: torch.Tensor, bits: int) -> torch.Tensor:
    """The integers that bytes hold, in float32; their last dimension is so much longer."""
    shifts = torch.arange(0, BYTE, bits)
    found = (held.int()[..., None] >> shifts) & ((1 << bits) - 1)
    return found.flatten(-2).float()


def packed(integers: torch.Tensor, bits: int) -> torch.Tensor:
    """The inverse of `unpacked`."""
    each = BYTE // bits
    parts = integers.int().reshape(*integers.shape[:-1], -1, each)
    return (parts << torch.arange(0, BYTE, bits)).sum(-1).to(torch.uint8)
