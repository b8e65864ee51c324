"""sample: inputs to take statistics from, where the caller gives none.

1. Batch norms with learned statistics: images that match them (`synthesize`).
2. A classifier without: images of its classes.
3. Causal language models: text that they write themselves (`generate`); other token models:
   random tokens; networks that see: pictures of random shapes; others: noise.
4. Models that were captured in parts: what the parts take while the whole runs on such (`imitate`).
Where making them would take long, `effort="auto"` makes fewer of them, or takes pictures of
random shapes some steps towards the statistics, or settles for the last: at a batch norm they are
normalised by their own statistics, so that what follows sees what it was trained for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import lcm, prod
from typing import TypeAlias

import numpy as np
import torch

from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.costs.registry import cost_of
from graphprune.engine.run import Chunk, sampled
from graphprune.rules.facts import Reading, reading
from graphprune.statistics.made.generate import find_writer, generate, table_rows
from graphprune.statistics.made.imitate import imitate
from graphprune.statistics.made.paint import paintable, painted
from graphprune.statistics.made.synthesize import (
    Descent,
    half_smooth,
    invert_classes,
    match_norms,
    noise,
    norms,
)
from graphprune.statistics.samples import Samples, affordable, captured, split
from graphprune.statistics.supplied import of_parts

LONGEST = 120.0  # seconds that `effort="auto"` may take for synthesis
_STEPS = {"best": 1000}
_INVERTING = 60  # a longer descent makes images of a class alike
_TYPICAL = 100  # steps that a descent usually takes
_QUICK, _PASSES, _FEWEST = (1.2e12, 5e9), 4, 4  # multiply-accumulates without and with "fast"
_PARTS = (2, 1, 1 / 2, 1 / 4)  # of the number of real inputs that would be read
_BRIEF = 20, 60  # least and most steps that pictures take
_FEW, _LEAST = 24, 16  # of them, which are given as many steps as that; at least
_TOGETHER = 8  # in a chunk, of which there are as many as it takes
_ROUNDS = 4  # in which a model writes; more inputs bring more than more rounds
_BACKWARDS = 3  # times as long as forwards alone a run takes with gradients
_WORTH, _HALF_WAY = 0.1, 0.3  # of inputs that nothing in the model has shaped, or some steps
_MEMORY = 1 << 30  # bytes that the values of a descent may take, all of which are kept
_LANES = 16  # channels that a gradient takes as much time for as for one
_PER_MAC, _PER_ELEMENT, _PER_OP = 4e-11, 3.5e-9, 2e-4  # seconds, forwards and backwards, one core

Synthesis: TypeAlias = Callable[
    [Dependencies, Sequence[torch.Tensor], int, Descent, Callable[[float], None]],
    tuple[Chunk, float],
]


def sample(
    deps: Dependencies,
    likes: Sequence[torch.Tensor],
    wanted: int,
    effort: str,
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
    granted: float | None = None,
) -> Samples:
    """Make inputs.

    Args:
        deps: The analysis.
        likes: Example inputs.
        wanted: How many.
        effort: `"fast"`, `"balanced"`, `"best"`, or `"auto"`.
        seed: Inputs are the same for the same seed.
        advance: Called with the share of the work that is done.
        granted: Seconds that it may take by the clock, with `effort="auto"`; where none are named,
            counts alone decide.
    """
    longest = LONGEST if granted is None else granted
    make = _synthesis(deps, likes)
    if make is not None and effort != "fast":
        steps = _INVERTING if make is invert_classes else _STEPS.get(effort, 200)
        number = _synthesised(deps, wanted, steps, effort, longest)
        most = math.inf if granted is None else granted
        how = Descent(steps, seed, seconds=most)
        if not number and make is match_norms and paintable(likes[0].shape[1:]):
            number, steps = _briefly(deps, wanted, longest)
            how = Descent(steps, seed, from_pictures=True, seconds=most)
        if number:
            try:
                return _optimised(deps, likes, make, number, how, advance)
            except RuntimeError:  # no gradient reaches the inputs, or it does not run on so many
                pass
    return _written(deps, likes, wanted, effort, seed, advance, longest) or _plain(
        deps, likes, _quick(deps, affordable(deps, wanted), effort), seed
    )


def _written(
    deps: Dependencies,
    likes: Sequence[torch.Tensor],
    wanted: int,
    effort: str,
    seed: int,
    advance: Callable[[float], None],
    longest: float,
) -> Samples | None:
    """Inputs that the model writes, as many as time allows; None where it does not or too few."""
    writer = find_writer(deps)
    if writer is None or effort == "fast":
        return None
    number, rounds = affordable(deps, wanted), _ROUNDS
    if effort == "best":
        rounds = writer.logits.shape[1]
    elif effort == "auto":
        each = seconds(deps, 1, rounds) / _BACKWARDS
        number = min(number, int(longest / each)) // captured(deps) * captured(deps)
    if number < _LEAST:
        return None
    return generate(deps, writer, _plain(deps, likes, number, seed), rounds, seed, advance)


def _optimised(
    deps: Dependencies,
    likes: Sequence[torch.Tensor],
    make: Synthesis,
    number: int,
    how: Descent,
    advance: Callable[[float], None],
) -> Samples:
    """Inputs from a descent, as many at a time as memory has room for their gradients."""
    most = max(int(_MEMORY / (4 * elements_of(deps))), 1)
    times = -(-number // most)
    made: list[torch.Tensor] = []
    losses: list[float] = []
    for done in range(times):
        each = number // times + (done < number % times)
        part = replace(how, seed=how.seed + done, seconds=how.seconds / times)
        found, left = make(deps, likes, each, part, _within(advance, done, times))
        made.extend(found)
        losses.append(left)
    kind = "class labels" if make is invert_classes else "batch-norm statistics"
    source = f"{number} inputs synthesised from {kind} (loss {np.mean(losses):.2g})"
    out = split(deps, [torch.cat(made)], source)
    if how.from_pictures:
        out.worth = _HALF_WAY
    return out


def _within(advance: Callable[[float], None], at: int, of: int) -> Callable[[float], None]:
    """Progress of one of several parts."""
    return lambda share: advance((at + share) / of)


def _synthesised(deps: Dependencies, wanted: int, steps: int, effort: str, longest: float) -> int:
    """How many inputs are synthesised, as time allows: twice as many as of real ones, or fewer."""
    for number in (affordable(deps, round(part * wanted)) for part in _PARTS):
        if effort != "auto" or synthesis_seconds(deps, number, min(steps, _TYPICAL)) <= longest:
            return number
    return 0


def _briefly(deps: Dependencies, wanted: int, longest: float) -> tuple[int, int]:
    """How many pictures can take how many steps in that time; none where they would be too few.

    A few that are near the statistics tell more than many that are not.
    """
    whole = lcm(_TOGETHER, captured(deps))
    steps = int(np.clip(longest / synthesis_seconds(deps, _FEW, 1), *_BRIEF))
    number = affordable(deps, wanted) // whole * whole
    while number >= _LEAST and synthesis_seconds(deps, number, steps) > longest:
        number -= whole
    return (number if number >= _LEAST else 0), steps


def _plain(deps: Dependencies, likes: Sequence[torch.Tensor], number: int, seed: int) -> Samples:
    """Random tokens, pictures of random shapes, or noise."""
    source = f"{number} {_kind(likes)}"
    highs = [table_rows(deps, value) for value in deps.source.inputs]
    batched = sampled(deps)
    whole = not any(batched)  # inputs without a dimension of samples: each is one
    tensors = [
        _made(like, number * (len(like) if whole else 1), high, seed + i)
        if like.dim() and (whole or cut)
        else like
        for i, (like, high, cut) in enumerate(zip(likes, highs, batched, strict=True))
    ]
    if whole:
        parts = [
            torch.split(made, len(like)) if like.dim() else [made] * number
            for made, like in zip(tensors, likes, strict=True)
        ]
        out = Samples(list(zip(*parts, strict=True)), captured(deps), source)
    else:
        out = split(deps, tensors, source)
    return _unshaped(deps, out)


def sample_parts(
    program: Program, deps: Dependencies, wanted: int, effort: str, seed: int
) -> Samples | None:
    """Make inputs for a model that was captured in parts.

    Args:
        program: The captured model.
        deps: The analysis.
        wanted: How many.
        effort: As for `sample`.
        seed: Inputs are the same for the same seed.

    Returns:
        What the parts take while the whole runs; None where no inputs can be made for that.

    Raises:
        GraphPruneError: No such run calls the parts as they were captured.
    """
    number = _quick(deps, affordable(deps, wanted), effort)
    batches = imitate(program.given, max(number // captured(deps), 1), seed)
    if not batches:
        return None
    out = of_parts(program, deps, batches, number)
    out.source = f"what the captured parts take in {len(out.chunks)} passes over made inputs"
    return _unshaped(deps, out)


def _unshaped(deps: Dependencies, samples: Samples) -> Samples:
    """Inputs that nothing in the model has shaped: batch norms meet them with their statistics."""
    samples.worth = _WORTH
    for op in norms(deps):
        if op.inputs[0] is not None:
            samples.norms.setdefault(op.inputs[0], []).append(op)
    return samples


def _synthesis(deps: Dependencies, likes: Sequence[torch.Tensor]) -> Synthesis | None:
    """How inputs of these shapes can be made from what the weights remember, if they can."""
    if not deps.source.engine.differentiable:
        return None
    if len(likes) != 1 or not likes[0].is_floating_point() or not any(sampled(deps)):
        return None
    if norms(deps):
        return match_norms
    outputs = deps.source.outputs
    classifies = len(outputs) == 1 and len(outputs[0].shape) == 2 and outputs[0].shape[1] > 1
    return invert_classes if classifies else None


def seconds(deps: Dependencies, number: int, steps: int = _TYPICAL) -> float:
    """Estimated time of a descent, from counts alone, so that no choice depends on a clock.

    Args:
        deps: The analysis.
        number: How many inputs.
        steps: Of the descent.
    """
    each = macs_of(deps) * _PER_MAC + elements_of(deps) * _PER_ELEMENT
    step = number * each
    return steps * (step + len(deps.source.ops) * _PER_OP)


def synthesis_seconds(deps: Dependencies, number: int, steps: int = _TYPICAL) -> float:
    """As `seconds`, for a descent of the inputs: what reads few channels has a slow gradient.

    Args as for `seconds`.
    """
    extra = 0.0
    for op in deps.source.ops:
        read = reading(op)
        if isinstance(read, Reading) and read.windows and read.groups == 1:
            channels = read.source.shape[read.channel]
            macs = prod(op.outputs[0].shape) * prod(read.weight.shape[2:]) * channels
            extra += macs * max(_LANES / channels - 1.0, 0.0)
    return seconds(deps, number, steps) + steps * number * extra / captured(deps) * _PER_MAC


def elements_of(deps: Dependencies) -> float:
    """Numbers in all values that a run over one sample makes."""
    elements = sum(prod(value.shape) for op in deps.source.ops for value in op.outputs)
    return elements / captured(deps)


def macs_of(deps: Dependencies) -> float:
    """Multiply-accumulates of one sample."""
    sizes = np.array([group.size for group in deps.groups], dtype=np.float64)
    return cost_of(deps, "macs")(sizes) / captured(deps)


def _quick(deps: Dependencies, number: int, effort: str) -> int:
    """As many of the inputs as the passes over them can take in little time, at least a few."""
    batch = captured(deps)
    most = int(_QUICK[effort == "fast"] / max(_PASSES * macs_of(deps), 1.0))
    return min(number, max(most, _FEWEST) // batch * batch or batch)


def _kind(likes: Sequence[torch.Tensor]) -> str:
    """What inputs that are not optimised are, for the report."""
    floating = [like for like in likes if like.is_floating_point()]
    if not floating:
        return "random token inputs"
    seen = any(paintable(like.shape[1:]) for like in floating)
    return "pictures of random shapes" if seen else "noise inputs"


def _made(like: torch.Tensor, number: int, high: int | None, seed: int) -> torch.Tensor:
    if like.is_floating_point() and paintable(like.shape[1:]):
        return painted(number, like.shape[1:], seed).to(like)
    if like.is_floating_point():
        return half_smooth(noise(like, number, seed)).to(like.dtype)
    if high is None:
        high = int(like.max()) + 1 if like.numel() else 2
        if high <= 2:  # a mask: nothing is hidden
            return torch.ones(number, *like.shape[1:], dtype=like.dtype, device=like.device)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(high, (number, *like.shape[1:]), generator=generator).to(like)
