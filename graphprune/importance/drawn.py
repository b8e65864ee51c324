"""drawn: numbers drawn at random, on which single operations are asked what they make of slices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from math import prod

import torch

from graphprune.core.graph import Op, Value
from graphprune.rules.facts import is_elementwise
from graphprune.rules.scalings import is_batch_norm, norm_channel

# Seed and scale of the numbers drawn: small and large, and each time their negatives too, or a
# channel of few numbers could lie on one side of a kink by chance.
DRAWS = ((0, 1.0), (0, -1.0), (1, 30.0), (1, -30.0), (2, 1e4), (2, -1e4), (3, 1e-2))
_ROUNDINGS = 32.0  # by which kernels may differ from place to place in one number
_THIN = 4  # places along each dimension, of operations that treat all places alike
_POOL, _APART = 65537, 7919  # numbers that are drawn, over and over; how far operands are apart


def shapes(op: Op, counts: Callable[[Value], Iterable[int]]) -> dict[Value, tuple[int, ...]]:
    """The shapes of what an operation reads: a few places stand for all that it treats alike.

    So it does where it acts on each element by itself, in dimensions that do not count and in which
    no stored number differs.
    """
    read = [value for value in op.inputs if value is not None and not value.is_weight]
    rank = max((len(value.shape) for value in op.outputs), default=0)
    whole: set[int] = set()
    if is_batch_norm(op):
        whole.add((norm_channel(op) or 0) % rank)
    elif is_elementwise(op.type):
        for value in (v for v in op.inputs if v is not None and v.is_weight):
            first = rank - len(value.shape)
            whole |= {first + i for i, size in enumerate(value.shape) if size > 1}
    else:
        return {value: value.shape for value in read}
    for value in (*read, *op.outputs):
        whole |= {rank - len(value.shape) + at for at in counts(value)}
    return {
        value: tuple(
            size if rank - len(value.shape) + i in whole else min(size, _THIN)
            for i, size in enumerate(value.shape)
        )
        for value in read
    }


@lru_cache(maxsize=len(DRAWS))
def _pool(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(_POOL, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def draw(shape: tuple[int, ...], seed: int, place: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers of the normal distribution for one operand; a prime number of them in turn."""
    pool = _pool(seed, dtype).roll(place * _APART)
    size = prod(shape)
    return pool.repeat(-(-size // _POOL))[:size].reshape(shape)


def equal(rows: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Which rows hold nothing but their number: zero to the last digit, others to rounding."""
    near = _ROUNDINGS * torch.finfo(rows.dtype).eps * numbers.abs()
    return ((rows - numbers[:, None]).abs() <= near[:, None]).all(1)
