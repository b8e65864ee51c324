"""plain: inputs that are made without a look at the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.engine.run import beside, resized, sampled
from graphprune.statistics.constants import (
    SECONDS_PER_PICTURE,
    SECONDS_PER_PIXEL,
)
from graphprune.statistics.made.descend import half_smooth, noise
from graphprune.statistics.made.generate import table_rows
from graphprune.statistics.made.imitate import imitate
from graphprune.statistics.made.paint import paintable, painted
from graphprune.statistics.made.synthesize import norms
from graphprune.statistics.samples import Samples, captured, results, split
from graphprune.statistics.supplied import of_parts


def painting(likes: Sequence[torch.Tensor], number: int) -> float:
    """Estimated seconds that so many plain inputs take, of which only pictures take any."""
    pictures = [like[0].numel() for like in likes if paintable(like.shape[1:])]
    return number * sum(SECONDS_PER_PICTURE + n * SECONDS_PER_PIXEL for n in pictures)


def plain(deps: Dependencies, likes: Sequence[torch.Tensor], number: int, seed: int) -> Samples:
    """Make inputs without a look at the weights: random tokens, pictures of random shapes, noise.

    Args:
        deps: The analysis.
        likes: Example inputs.
        number: How many.
        seed: Inputs are the same for the same seed.
    """
    origin = f"{number} {kind(likes)}"
    highs = [table_rows(deps, value) for value in deps.source.inputs]
    batched, others = sampled(deps), beside(deps)
    whole = not any(batched)  # no batch dimension: each input is one sample
    pieces = number if whole else max(number // captured(deps), 1)
    apart = whole or any(others)  # of several batch dimensions, only the captured sizes run
    anew = [
        like.dim() > 0 and (whole or cut or other)
        for like, cut, other in zip(likes, batched, others, strict=True)
    ]
    tensors = [
        _made(like, pieces * len(like) if apart else number, high, seed + i) if own else like
        for i, (like, high, own) in enumerate(zip(likes, highs, anew, strict=True))
    ]
    if not _accepted(deps, likes, tensors, highs):
        tensors = [
            _drawn(like, made, seed + i) if own and not like.is_floating_point() and high is None
            else made
            for i, (like, made, high, own) in enumerate(
                zip(likes, tensors, highs, anew, strict=True)
            )
        ]  # fmt: skip
    if apart:
        parts = [
            torch.split(made, len(like)) if own else [made] * pieces
            for made, like, own in zip(tensors, likes, anew, strict=True)
        ]
        out = Samples(list(zip(*parts, strict=True)), captured(deps), origin)
    else:
        out = split(deps, tensors, origin)
    return unshaped(deps, out)


def plain_for_parts(program: Program, deps: Dependencies, number: int, seed: int) -> Samples | None:
    """Made inputs for a model that was captured in parts, as many as asked for.

    Args and errors as for `sample_parts`.
    """
    batches = imitate(program.given, max(number // captured(deps), 1), seed)
    if not batches:
        return None
    out = of_parts(program, deps, batches, number)
    return out


def carried(deps: Dependencies, samples: Samples) -> Samples:
    """The same inputs for another model that takes them.

    Args:
        deps: The analysis of that model.
        samples: The inputs.
    """
    out = Samples(samples.chunks, samples.size, samples.origin, worth=samples.worth)
    return unshaped(deps, out) if samples.norms else out


def unshaped(deps: Dependencies, samples: Samples) -> Samples:
    """Mark samples as unlike training data: batch norms use the samples' own statistics."""
    for op in norms(deps):
        if op.inputs[0] is not None:
            samples.norms.setdefault(op.inputs[0], []).append(op)
    return samples


def kind(likes: Sequence[torch.Tensor]) -> str:
    """What inputs that are not optimised are, for the report."""
    floating = [like for like in likes if like.is_floating_point()]
    if not floating:
        return "random token inputs"
    seen = any(paintable(like.shape[1:]) for like in floating)
    return "pictures of random shapes" if seen else "noise inputs"


def _accepted(
    deps: Dependencies,
    likes: Sequence[torch.Tensor],
    made: Sequence[torch.Tensor],
    highs: Sequence[int | None],
) -> bool:
    """Whether the model runs on integers that are no rows of a table, such as corners of boxes.

    The smallest and the largest numbers stand for all that were drawn: where the model takes them,
    it takes what lies between, such as lengths.
    """
    pairs = zip(likes, highs, strict=True)
    if all(like.is_floating_point() or high is not None for like, high in pairs):
        return True
    triples = list(zip(made, likes, highs, strict=True))
    first = tuple(_outermost(*held) if held[1].dim() else held[0] for held in triples)
    try:
        results(deps, first, resized(deps, {}, captured(deps)))
    except (RuntimeError, IndexError, ValueError):
        return False
    return True


def _outermost(made: torch.Tensor, like: torch.Tensor, high: int | None) -> torch.Tensor:
    """As many samples as the example has: the first, and those of the extremes among integers."""
    if like.is_floating_point() or high is not None or made.dtype is torch.bool:
        return made[: len(like)]
    each = made.reshape(len(made), -1)
    ends = torch.stack([each.amin(1).argmin(), each.amax(1).argmax()])
    return made[torch.cat([ends, torch.arange(len(made), device=made.device)])[: len(like)]]


def _drawn(like: torch.Tensor, made: torch.Tensor, seed: int) -> torch.Tensor:
    """Samples of the example, as many as were made, in place of numbers that it does not take."""
    generator = torch.Generator().manual_seed(seed)
    return like[torch.randint(len(like), (len(made),), generator=generator).to(like.device)]


def _made(like: torch.Tensor, number: int, high: int | None, seed: int) -> torch.Tensor:
    """Inputs of an example's shape and type.

    Args:
        like: The example.
        number: How many.
        high: Rows of the table that tokens are looked up in; None where there is none.
        seed: The same seed gives the same inputs.
    """
    if like.is_floating_point() and paintable(like.shape[1:]):
        return painted(number, like.shape[1:], seed).to(like)
    if like.is_floating_point():
        return half_smooth(noise(like, number, seed)).to(like.dtype)
    if high is None:
        high = int(like.max()) + 1 if like.numel() else 2
        if high <= 2:  # a mask of zeros and ones: nothing is hidden
            return torch.ones(number, *like.shape[1:], dtype=like.dtype, device=like.device)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, (number, *like.shape[1:]), generator=generator).to(like)
