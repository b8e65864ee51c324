"""sample: make inputs for statistics where the caller gives no data.

| model | inputs | made by |
|---|---|---|
| batch norms with learned statistics | images that match these statistics | `synthesize` |
| other classifiers | inputs of its classes | `synthesize` |
| causal language models | text that they write themselves | `generate` |
| other models of tokens | random tokens | `plain` |
| other models of images | pictures of random shapes | `paint` |
| any other | noise, half of it smooth | `descend.noise` |
| captured in parts | what the parts read while the whole runs on the last three | `imitate` |

The first three take time. Where the estimate exceeds `LONGEST_SECONDS`, `effort="auto"` makes
fewer; or takes painted pictures a few steps towards the stored statistics; or uses painted pictures
as they are. Batch norms then normalise them by their own statistics, so that the layers after a
batch norm read values of the mean and variance that they were trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import TypeAlias

import numpy as np
import torch

from graphprune.core.allowance import UNLIMITED, Allowance
from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.engine.run import Chunk, sampled
from graphprune.statistics.constants import (
    BACKWARD_FACTOR,
    DESCENT_BYTES,
    FEWEST_MADE,
    LONGEST_SECONDS,
    PARTS_SYNTHESISED,
    PASSES,
    PICTURES_STEPPED,
    PICTURES_TOGETHER,
    QUICK_FEWEST,
    QUICK_MACS,
    QUICK_MACS_FAST,
    STEPS,
    STEPS_BEST,
    STEPS_INVERTING,
    STEPS_PICTURES,
    STEPS_TYPICAL,
    WORTH_STEPPED,
    WRITING_ROUNDS,
)
from graphprune.statistics.estimate import elements_of, macs_of, seconds, synthesis_seconds
from graphprune.statistics.made.descend import Descent
from graphprune.statistics.made.generate import Writer, find_writer, generate
from graphprune.statistics.made.imitate import imitate
from graphprune.statistics.made.paint import paintable
from graphprune.statistics.made.plain import painting, plain, unshaped
from graphprune.statistics.made.synthesize import invert_classes, match_norms, norms
from graphprune.statistics.samples import Samples, affordable, captured, split
from graphprune.statistics.supplied import of_parts

Synthesis: TypeAlias = Callable[
    [Dependencies, Sequence[torch.Tensor], int, Descent, Callable[[float], None]],
    tuple[Chunk, float],
]
"""`match_norms` or `invert_classes`."""


@dataclass(frozen=True)
class _Making:
    """How inputs are made by a descent.

    Attributes:
        by: What descends.
        number: Inputs that are made.
        how: Start and end of the descent.
        steps: Runs that it usually takes.
    """

    by: Synthesis
    number: int
    how: Descent
    steps: int


def sample(
    deps: Dependencies,
    likes: Sequence[torch.Tensor],
    wanted: int,
    effort: str,
    seed: int,
    advance: Callable[[float], None] = lambda _: None,
    granted: float | None = None,
    allowed: Allowance = UNLIMITED,
    most: int | None = None,
) -> Samples:
    """Make inputs for a model that was captured as a whole.

    Args:
        deps: The analysis.
        likes: Example inputs.
        wanted: Number of real samples that would be read; about as many are made.
        effort: `"fast"`, `"balanced"`, `"best"`, or `"auto"`.
        seed: The same seed gives the same inputs.
        advance: Called with the share of the work that is done.
        granted: Seconds that it may take by estimate; None: as `effort` says.
        allowed: Time after which a descent ends.
        most: Most inputs that passes over them have time for; of those that a descent makes, the
            time of which follows other rules, there may be more.

    Returns:
        The samples, with `norms` where they are unlike training data.
    """
    longest = LONGEST_SECONDS if granted is None else granted
    found = _descent(deps, likes, wanted, effort, seed, granted)
    if found is not None:
        try:
            return _optimised(deps, likes, found, advance, allowed)
        except RuntimeError:  # no gradient reaches the inputs, or this batch size fails
            pass
    written = _writing(deps, wanted, effort, longest)
    if written is not None:
        writer, number, rounds = written
        texts = generate(deps, writer, plain(deps, likes, number, seed), rounds, seed, advance)
        if texts is not None:
            return texts
    wanted = min(wanted, most or wanted)
    return plain(deps, likes, _quick(deps, affordable(deps, wanted), effort), seed)


def making(
    deps: Dependencies,
    likes: Sequence[torch.Tensor],
    wanted: int,
    effort: str,
    granted: float | None = None,
    most: int | None = None,
) -> tuple[int, float]:
    """How many inputs `sample` makes of the same arguments, and how long that takes.

    Returns:
        The number, and the estimated seconds on one core.
    """
    longest = LONGEST_SECONDS if granted is None else granted
    found = _descent(deps, likes, wanted, effort, 0, granted)
    if found is not None:
        taken = synthesis_seconds(deps, found.number, found.steps)
        return found.number, min(taken, granted or math.inf)
    written = _writing(deps, wanted, effort, longest)
    if written is not None:
        _, number, rounds = written
        return number, seconds(deps, number, rounds) / BACKWARD_FACTOR
    number = _quick(deps, affordable(deps, min(wanted, most or wanted)), effort)
    return number, painting(likes, number)


def _descent(
    deps: Dependencies,
    likes: Sequence[torch.Tensor],
    wanted: int,
    effort: str,
    seed: int,
    granted: float | None,
) -> _Making | None:
    """How to make inputs by a descent; None where no way applies, or none in time."""
    longest = LONGEST_SECONDS if granted is None else granted
    make = _synthesis(deps, likes)
    if make is None or effort == "fast":
        return None
    if make is invert_classes:
        number = _synthesised(deps, wanted, STEPS_INVERTING, effort, longest)
        how = Descent(STEPS_INVERTING, seed)
        return _Making(make, number, how, STEPS_INVERTING) if number else None
    steps = STEPS_BEST if effort == "best" else STEPS
    number = _synthesised(deps, wanted, STEPS_TYPICAL, effort, longest)
    if number:
        return _Making(make, number, Descent(steps, seed), STEPS_TYPICAL)
    if not paintable(likes[0].shape[1:]):
        return None
    number, steps = _briefly(deps, wanted, longest)
    how = Descent(steps, seed, from_pictures=True)
    return _Making(make, number, how, min(steps, STEPS_TYPICAL)) if number else None


def _writing(
    deps: Dependencies, wanted: int, effort: str, longest: float
) -> tuple[Writer, int, int] | None:
    """A causal language model that writes its inputs, how many of them, and in how many rounds.

    Returns:
        None where the model is no causal language model, or time allows too few inputs.
    """
    writer = None if effort == "fast" else find_writer(deps)
    if writer is None:
        return None
    number, rounds = affordable(deps, wanted), WRITING_ROUNDS
    if effort == "best":
        rounds = writer.logits.shape[1]
    elif effort == "auto":
        each = seconds(deps, 1, rounds) / BACKWARD_FACTOR
        number = min(number, int(longest / each)) // captured(deps) * captured(deps)
    return None if number < FEWEST_MADE else (writer, number, rounds)


def _optimised(
    deps: Dependencies,
    likes: Sequence[torch.Tensor],
    making: _Making,
    advance: Callable[[float], None],
    allowed: Allowance,
) -> Samples:
    """Synthesised inputs, in as many descents as their gradients need memory for."""
    number, how = making.number, making.how
    most = max(int(DESCENT_BYTES / (4 * elements_of(deps))), 1)
    times = -(-number // most)
    made: list[torch.Tensor] = []
    losses: list[float] = []
    for done in range(times):
        each = number // times + (done < number % times)
        part = replace(how, seed=how.seed + done, seconds=allowed.left / (times - done))
        found, left = making.by(deps, likes, each, part, _within(advance, done, times))
        made.extend(found)
        losses.append(left)
    kind = "class labels" if making.by is invert_classes else "batch-norm statistics"
    origin = f"{number} inputs synthesised from {kind} (loss {np.mean(losses):.2g})"
    out = split(deps, [torch.cat(made)], origin)
    if how.from_pictures:
        out.worth = WORTH_STEPPED
    return out


def _within(advance: Callable[[float], None], at: int, of: int) -> Callable[[float], None]:
    """The progress of the whole while part `at` of `of` parts runs."""
    return lambda share: advance((at + share) / of)


def _synthesised(deps: Dependencies, wanted: int, usual: int, effort: str, longest: float) -> int:
    """How many inputs to synthesise: the largest of `PARTS_SYNTHESISED` that time allows, or 0.

    Args:
        deps: The analysis.
        wanted: Number of real samples that would be read.
        usual: Runs that a descent usually takes.
        effort: As for `sample`.
        longest: Seconds that it may take by estimate.
    """
    for number in (affordable(deps, round(part * wanted)) for part in PARTS_SYNTHESISED):
        if effort != "auto" or synthesis_seconds(deps, number, usual) <= longest:
            return number
    return 0


def _briefly(deps: Dependencies, wanted: int, longest: float) -> tuple[int, int]:
    """Number of painted pictures, and of steps they take, that fit into `longest` seconds.

    Steps come first: a few pictures near the stored statistics tell more than many far from them.

    Returns:
        Zero pictures where fewer than `FEWEST_MADE` would fit.
    """
    whole = lcm(PICTURES_TOGETHER, captured(deps))
    steps = int(np.clip(longest / synthesis_seconds(deps, PICTURES_STEPPED, 1), *STEPS_PICTURES))
    number = affordable(deps, wanted) // whole * whole
    while number >= FEWEST_MADE and synthesis_seconds(deps, number, steps) > longest:
        number -= whole
    return (number if number >= FEWEST_MADE else 0), steps


def sample_parts(
    program: Program, deps: Dependencies, wanted: int, effort: str, seed: int
) -> Samples | None:
    """Make inputs for a model that was captured in parts.

    Args:
        program: The captured model.
        deps: The analysis.
        wanted: Number of samples.
        effort: As for `sample`.
        seed: The same seed gives the same inputs.

    Returns:
        What the parts read while the whole model runs; None where its example inputs are masks and
        single numbers alone.

    Raises:
        GraphPruneError: No run calls the parts as they were captured.
    """
    number = numbered(deps, wanted, effort)
    batches = imitate(program.given, max(number // captured(deps), 1), seed)
    if not batches:
        return None
    out = of_parts(program, deps, batches, number)
    out.origin = f"what the captured parts take in {len(out.chunks)} passes over made inputs"
    return unshaped(deps, out)


def numbered(deps: Dependencies, wanted: int, effort: str) -> int:
    """How many inputs are made for a model that was captured in parts; as for `sample_parts`."""
    return _quick(deps, affordable(deps, wanted), effort)


def _synthesis(deps: Dependencies, likes: Sequence[torch.Tensor]) -> Synthesis | None:
    """How to synthesise inputs for this model; None where no way applies.

    It takes gradients and a single floating-point input with a batch dimension, besides learned
    batch norms or one output of class scores.
    """
    if not deps.source.engine.differentiable:
        return None
    if len(likes) != 1 or not likes[0].is_floating_point() or not any(sampled(deps)):
        return None
    if norms(deps):
        return match_norms
    outputs = deps.source.outputs
    classifies = len(outputs) == 1 and len(outputs[0].shape) == 2 and outputs[0].shape[1] > 1
    return invert_classes if classifies else None


def _quick(deps: Dependencies, number: int, effort: str) -> int:
    """How many inputs the passes over them have time for, at least `QUICK_FEWEST`."""
    batch = captured(deps)
    allowed = QUICK_MACS_FAST if effort == "fast" else QUICK_MACS
    most = int(allowed / max(PASSES * macs_of(deps), 1.0))
    return min(number, max(most, QUICK_FEWEST) // batch * batch or batch)
