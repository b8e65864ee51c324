"""augment: change samples at random, for a descent that passes over them many times.

Three kinds of passes follow each other: samples as they are; each blended with another (Zhang et
al., mixup, ICLR 2018); each with a box of another pasted in (Yun et al., CutMix, ICCV 2019). All
are shifted a little along dimensions of space or time, cyclically. No labels are needed: the target
is what the original network computes from the same changed samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from graphprune.engine.run import Chunk
from graphprune.statistics.constants import BLENDED_MOST, BOX_LEAST, BOX_MOST, ROLLED_PART


def augmented(chunk: Chunk, which: Sequence[bool], round_: int, seed: int) -> Chunk:
    """Change the samples of a chunk at random.

    Args:
        chunk: Tensors for the graph's inputs, samples first: `n c ...`.
        which: For each tensor whether it holds samples; others stay as they are.
        round_: Number of the pass over all samples, from 0; chooses the kind of change.
        seed: The same seed gives the same change.

    Returns:
        As many samples, of the same shapes; the chunk itself where samples are integers (tokens),
        which cannot be blended.
    """
    own = [x for x, cut in zip(chunk, which, strict=True) if cut]
    if not own or not all(x.is_floating_point() for x in own):
        return chunk
    generator = torch.Generator().manual_seed(seed)
    change = (lambda x: x, _blend(len(own[0]), generator), _paste(own, generator))[round_ % 3]
    roll = _roll(own, generator)
    return tuple(roll(change(x)) if cut else x for x, cut in zip(chunk, which, strict=True))


def _blend(number: int, generator: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """Blend every sample with another: `(1 - a) x + a x'` with a uniform in [0, `BLENDED_MOST`]."""
    other = torch.randperm(number, generator=generator)
    share = torch.rand(number, generator=generator) * BLENDED_MOST

    def change(x: torch.Tensor) -> torch.Tensor:
        part = share.to(x).reshape(-1, *[1] * (x.dim() - 1))
        return torch.lerp(x, x[other.to(x.device)], part)

    return change


def _paste(
    own: Sequence[torch.Tensor], generator: torch.Generator
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Paste a box of another sample into every sample.

    Inputs of a model that share a dimension get the same part of it.
    """
    number, dims = len(own[0]), max(x.dim() for x in own)
    other = torch.randperm(number, generator=generator)
    covered = BOX_LEAST + (BOX_MOST - BOX_LEAST) * torch.rand(dims, number, 1, generator=generator)
    start = (1 - covered) * torch.rand(dims, number, 1, generator=generator)

    def change(x: torch.Tensor) -> torch.Tensor:
        if x.dim() < 3:
            return x
        inside = torch.ones(number, *[1] * (x.dim() - 1), dtype=torch.bool)
        for dim in range(2, x.dim()):
            at = torch.arange(x.shape[dim]) / x.shape[dim]
            within = (at >= start[dim]) & (at < start[dim] + covered[dim])
            inside = inside & within.reshape(
                number, *[x.shape[dim] if d == dim else 1 for d in range(1, x.dim())]
            )
        return torch.where(inside.to(x.device), x[other.to(x.device)], x)

    return change


def _roll(
    own: Sequence[torch.Tensor], generator: torch.Generator
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Shift all samples cyclically by the same random share of each dimension."""
    dims = max(x.dim() for x in own)
    share = (torch.rand(dims, generator=generator) * 2 - 1).tolist()

    def change(x: torch.Tensor) -> torch.Tensor:
        by = {d: round(share[d] * (x.shape[d] // ROLLED_PART + 0.5)) for d in range(2, x.dim())}
        return torch.roll(x, list(by.values()), list(by)) if any(by.values()) else x

    return change
