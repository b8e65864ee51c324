"""imitate: batches like the example inputs, for a model that was captured in parts.

What the parts take is known once the whole model has run. It runs on pictures of random shapes in
the place of the example's pictures, on noise in that of its other numbers, and on random tokens, of
those between the least and the most that the example holds. Masks stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphprune.core.batch import Batch
from graphprune.statistics.batches import counted
from graphprune.statistics.made.paint import paintable, painted
from graphprune.statistics.made.synthesize import half_smooth, noise

_COLOURS = (1, 3, 4)  # channels of a picture that is given by itself
_RANGES = (1.0, 255.0)  # that pictures have, from zero on, where a model scales them itself
_MIDDLE, _SPREAD = 0.5, 0.25  # of such a range, that pictures have


def imitate(given: tuple[tuple[Any, ...], dict[str, Any]], batches: int, seed: int) -> list[Batch]:
    """Make batches.

    Args:
        given: Example inputs, positional and by name.
        batches: How many.
        seed: The same for the same seed.

    Returns:
        As many of the example's structure and shapes; none where it holds nothing but masks.
    """
    tensors = [x for x in pytree.tree_leaves(given) if isinstance(x, torch.Tensor)]
    if not any(map(_varies, tensors)):
        return []
    seeds = iter(range(seed, seed + batches * len(tensors)))
    found = [pytree.tree_map_only(torch.Tensor, _like(seeds), given) for _ in range(batches)]
    return [counted(Batch(args, kwargs)) for args, kwargs in found]


def _varies(x: torch.Tensor) -> bool:
    """Whether a tensor holds numbers, or tokens, not one number or a mask."""
    if not x.dim() or not x.numel() or x.is_complex():
        return False
    return x.is_floating_point() or int(x.max()) > 1


def _like(seeds: Iterator[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: _made(x, next(seeds)) if _varies(x) else x


def _made(like: torch.Tensor, seed: int) -> torch.Tensor:
    """A tensor like another one: samples first, or one picture by itself."""
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
    """In the range that another tensor seems to be of, if it is one of pictures."""
    least, most = float(like.min()), float(like.max())
    top = next((top for top in _RANGES if 0.0 <= least < most <= top), None)
    return found if top is None else top * (_MIDDLE + _SPREAD * found).clamp(0.0, 1.0)
