"""Inputs of the blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]
Block = tuple[Callable[[], nn.Module], Callable[[], Inputs]]


def images(size: int = 16) -> Inputs:
    """A batch of two images."""
    return (torch.randn(2, 3, size, size),)


def tokens() -> Inputs:
    """A batch of two token sequences."""
    return (torch.randint(0, 40, (2, 7)),)
