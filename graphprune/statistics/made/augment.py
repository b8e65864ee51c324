"""augment: many inputs out of few, for a descent that meets each of them again and again.

Of three passes over the samples the first takes them as they are, the second blends each with
another one (Zhang et al., mixup, 2018), the third pastes a box of another one into it (Yun et al.,
CutMix, 2019); all are rolled a little along their dimensions of space or time. What comes out needs
no label: the original answers for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from graphprune.engine.run import Chunk

_ROLLED = 8  # at most this part of a dimension
_LEAST, _MOST = 0.15, 0.85  # of a dimension that a box covers


def augmented(chunk: Chunk, which: Sequence[bool], round_: int, seed: int) -> Chunk:
    """Other inputs made of a chunk of them.

    Args:
        chunk: Tensors for the graph's inputs, samples first: `n c ...`.
        which: Those that hold samples; others stay as they are.
        round_: How often all samples were met before.
        seed: The same for the same inputs.

    Returns:
        As many, of the same shapes; the chunk itself where samples are whole numbers, which have
        nothing between them.
    """
    own = [x for x, cut in zip(chunk, which, strict=True) if cut]
    if not own or not all(x.is_floating_point() for x in own):
        return chunk
    generator = torch.Generator().manual_seed(seed)
    change = (lambda x: x, _blend(len(own[0]), generator), _paste(own, generator))[round_ % 3]
    roll = _roll(own, generator)
    return tuple(roll(change(x)) if cut else x for x, cut in zip(chunk, which, strict=True))


def _blend(number: int, generator: torch.Generator) -> Callable[[torch.Tensor], torch.Tensor]:
    """Every sample with up to half of another one."""
    other = torch.randperm(number, generator=generator)
    share = torch.rand(number, generator=generator) / 2

    def change(x: torch.Tensor) -> torch.Tensor:
        part = share.to(x).reshape(-1, *[1] * (x.dim() - 1))
        return torch.lerp(x, x[other.to(x.device)], part)

    return change


def _paste(
    own: Sequence[torch.Tensor], generator: torch.Generator
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Every sample with a box of another one: the same share of whatever has the dimension."""
    number, dims = len(own[0]), max(x.dim() for x in own)
    other = torch.randperm(number, generator=generator)
    covered = _LEAST + (_MOST - _LEAST) * torch.rand(dims, number, 1, generator=generator)
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
    """All samples moved by the same share of each dimension."""
    dims = max(x.dim() for x in own)
    share = (torch.rand(dims, generator=generator) * 2 - 1).tolist()

    def change(x: torch.Tensor) -> torch.Tensor:
        by = {d: round(share[d] * (x.shape[d] // _ROLLED + 0.5)) for d in range(2, x.dim())}
        return torch.roll(x, list(by.values()), list(by)) if any(by.values()) else x

    return change
