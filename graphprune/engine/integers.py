"""integers: what those that are stored stand for: `(q - zero point) * scale`.

Scale and zero point are one for all, one for each index of a dimension, or one for each block of
indices.

Example:
    Integers 1, 2, 3, 4 in blocks of two, scales 0.1 and 10: 0.1, 0.2, 30, 40.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from graphprune.core.effect import Encoding
from graphprune.core.graph import Value
from graphprune.engine.tensors import along

Held = Callable[[Value], torch.Tensor]
"""Gives the tensor of a scale or zero point."""


def stored(value: Value) -> torch.Tensor:
    """A scale or zero point as the model stores it."""
    held: torch.Tensor = value.tensor.detach()
    return held


def steps(how: Encoding, rank: int, held: Held = stored) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point of integers, each once, in the order of their dimensions.

    Args:
        how: How the integers stand for numbers.
        rank: How many dimensions they have.
        held: Gives the tensor of a value that `how` refers to.
    """
    scale = torch.ones(())
    for value in how.scales:
        scale = scale * along(held(value).float(), how.dim, rank)
    zero = torch.zeros(()) if how.zero is None else held(how.zero).float()
    return scale, along(zero, how.dim, rank)


def spread(told: torch.Tensor, how: Encoding, shape: Sequence[int]) -> torch.Tensor:
    """Scales or zero points as `steps` gives them, so that they broadcast against integers.

    Args:
        told: The scales or zero points.
        how: How the integers stand for numbers.
        shape: The integers' shape.
    """
    if not how.block or told.dim() <= how.dim:
        return told
    return told.repeat_interleave(how.block, how.dim).narrow(how.dim, 0, shape[how.dim])


def zeros(zero: torch.Tensor, how: Encoding, shape: Sequence[int]) -> torch.Tensor:
    """A zero point, in its own type, so that it broadcasts against integers of a shape."""
    return spread(along(zero, how.dim, len(shape)), how, shape)


def numbers(integers: torch.Tensor, how: Encoding, held: Held = stored) -> torch.Tensor:
    """What integers stand for, in float32.

    Args:
        integers: The integers.
        how: How they stand for numbers.
        held: Gives the tensor of a value that `how` refers to.
    """
    scale, zero = (spread(x, how, integers.shape) for x in steps(how, integers.dim(), held))
    return (integers.float() - zero) * scale
