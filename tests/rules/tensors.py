"""Tensors for the cases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Case = tuple[Callable[..., Any], tuple[torch.Tensor, ...]]

_generator = torch.Generator().manual_seed(0)


def t(*shape: int) -> torch.Tensor:
    """Normally distributed values."""
    return torch.randn(shape, generator=_generator)


def p(*shape: int) -> torch.Tensor:
    """Values between 0.1 and 0.9."""
    return torch.rand(shape, generator=_generator) * 0.8 + 0.1


def k(high: int, *shape: int) -> torch.Tensor:
    """Integers from 0 to `high` - 1."""
    return torch.randint(high, shape, generator=_generator)


def many(*functions: Callable[..., Any]) -> Callable[..., Any]:
    """All functions on the same operands, one after the other."""
    return lambda *tensors: tuple(function(*tensors) for function in functions)
