"""How long the work on a model will take, told before it begins."""

from __future__ import annotations

from collections.abc import Callable

from graphprune.compensation.calibration import STAGES, SYNTHESISING
from graphprune.core.errors import GraphPruneError
from graphprune.core.progress import LONG, announce, duration
from graphprune.pipeline import Pipeline, Work

_DOUBTFUL = LONG / 4  # estimated seconds on one core from which on a run is timed
_SAVES = 0.7  # share of the time below which a quicker way is worth a word

_STAGED = ("score", "compensate")  # passes that those stages are parts of

UNPROVEN = ("verify", "measure")
"""Passes that are left out where many smaller models are made."""

Beyond = Callable[[Work], float]
"""Estimated seconds, on one core, of what the caller does besides the passes."""


def foretell(
    work: Work, pipeline: Pipeline, points: int = 1, beyond: Beyond | None = None
) -> float | None:
    """Say in a line how long the work takes, if that is long, and what is quicker.

    Args:
        work: The work once groups are known.
        pipeline: All passes that run in the end.
        points: How many smaller models are made.
        beyond: What the caller does besides.

    Returns:
        The estimated seconds; None where they are few or nothing is known.
    """
    effort = work.asked.options.effort
    try:
        more = 0.0 if beyond is None else beyond(work)
        nominal = estimated(work, pipeline, effort, points)
        if nominal is None or nominal + more < _DOUBTFUL:
            return None
        slow = work.statistics().pace
    except (RuntimeError, IndexError, TypeError, ValueError, GraphPruneError):
        return None  # the captured graph does not run by itself: nothing is known
    if slow is None:
        return None
    nominal += more
    whole = slow * nominal
    if whole < LONG:
        return None
    quick = slow * ((estimated(work, pipeline, "fast", points) or 0.0) + more)
    if points == 1:
        _expect(work, pipeline, nominal, slow)
    text = f"{work.program.name}: this takes about {duration(whole)}"
    if quick < _SAVES * whole:
        text += f'; with effort="fast" about {duration(quick)}'
    announce(text)
    return whole


def _expect(work: Work, pipeline: Pipeline, nominal: float, slow: float) -> None:
    """Let bars of the stages of compensation tell what is left of all."""
    found = work.statistics().forecast(work.asked.options.effort)
    if found is None:
        return
    known = [step for step in pipeline if step.name in _STAGED and step.reads(work)]
    stages = (found.making, found.weighing, found.solving, found.polishing)
    if len(known) < len(_STAGED):  # other passes look at the samples
        work.statistics().expect({SYNTHESISING: slow * (nominal - found.making)})
        return
    tail = nominal - sum(stages)
    work.statistics().expect(
        {name: slow * (sum(stages[i:]) + tail) for i, name in enumerate(STAGES, 1)}
    )


def teller(
    work: Work, pipeline: Pipeline, points: int | None = 1, beyond: Beyond | None = None
) -> Callable[[], None]:
    """What a pipeline calls once groups are known; `points` of None: one for each group."""

    def tell() -> None:
        foretell(work, pipeline, len(work.deps.groups) if points is None else points, beyond)

    return tell


def estimated(work: Work, pipeline: Pipeline, effort: str | float, points: int = 1) -> float | None:
    """Estimated seconds on one core of all passes; None where too little is known.

    Args:
        work: The work once groups are known.
        pipeline: The passes.
        effort: As for `graphprune.plan`.
        points: How often those run that make a smaller model.
    """
    steps = [step for step in pipeline if points == 1 or step.name not in UNPROVEN]
    total = sum(step.takes(work, effort) * (points if step.makes else 1) for step in steps)
    if not any(step.reads(work) for step in steps):
        return total
    found = work.statistics().on().forecast(effort)
    return None if found is None else total + found.making
