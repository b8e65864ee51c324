"""imitate: batches like the example inputs, for a model that was captured in parts.

The inputs of the parts are known once the whole model has run. It runs on batches of the example's
structure, in which pictures of random shapes replace pictures, noise replaces other floating-point
tensors, and random integers of the same range replace tokens. Masks and single numbers stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphprune.core.batch import Batch
from graphprune.statistics.batches import counted
from graphprune.statistics.constants import PICTURE_MIDDLE, PICTURE_RANGES, PICTURE_SPREAD
from graphprune.statistics.made.descend import half_smooth, noise
from graphprune.statistics.made.paint import paintable, painted

_COLOURS = (1, 3, 4)
"""Channels of a single picture without a batch dimension: grey, RGB, RGBA."""


def imitate(given: tuple[tuple[Any, ...], dict[str, Any]], batches: int, seed: int) -> list[Batch]:
    """Make batches of the structure and shapes of example inputs.

    Args:
        given: The example inputs, positional and by name.
        batches: Number of batches.
        seed: The same seed gives the same batches.

    Returns:
        The batches; none where the example holds nothing but masks and single numbers.
    """
    tensors = [x for x in pytree.tree_leaves(given) if isinstance(x, torch.Tensor)]
    if not any(map(_varies, tensors)):
        return []
    seeds = iter(range(seed, seed + batches * len(tensors)))
    found = [pytree.tree_map_only(torch.Tensor, _like(seeds), given) for _ in range(batches)]
    return [counted(Batch(args, kwargs)) for args, kwargs in found]


def _varies(x: torch.Tensor) -> bool:
    """Whether a tensor is to be replaced: not a single number, a mask, or empty."""
    if not x.dim() or not x.numel() or x.is_complex():
        return False
    return x.is_floating_point() or int(x.max()) > 1


def _like(seeds: Iterator[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: _made(x, next(seeds)) if _varies(x) else x


def _made(like: torch.Tensor, seed: int) -> torch.Tensor:
    """A tensor of another's shape and kind: a batch, or a single picture."""
    if not like.is_floating_point():
        generator = torch.Generator().manual_seed(seed)
        low, high = int(like.min()), int(like.max()) + 1
        return torch.randint(low, high, like.shape, generator=generator).to(like)
    if paintable(like.shape[1:]):
        return _ranged(painted(len(like), like.shape[1:], seed), like).to(like)
    if paintable(like.shape) and like.dim() == 3 and len(like) in _COLOURS:
        return _ranged(painted(1, like.shape, seed)[0], like).to(like)
    return half_smooth(noise(like, len(like), seed)).to(like)


def _ranged(found: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Painted pictures, scaled to [0, 1] or [0, 255] where the example seems to lie in it."""
    least, most = float(like.min()), float(like.max())
    top = next((top for top in PICTURE_RANGES if 0.0 <= least < most <= top), None)
    if top is None:
        return found
    return top * (PICTURE_MIDDLE + PICTURE_SPREAD * found).clamp(0.0, 1.0)
