"""How long the work on a model will take, told before it begins."""

from __future__ import annotations

from collections.abc import Callable

from graphprune.compensation.calibration import STAGES
from graphprune.compensation.forecast import slowness
from graphprune.core.errors import GraphPruneError
from graphprune.core.progress import LONG, announce, duration
from graphprune.pipeline import Pipeline, Work

_DOUBTFUL = LONG / 4  # estimated seconds on one core from which on a run is timed
_SAVES = 0.7  # share of the time below which a quicker way is worth a word


def foretell(work: Work, pipeline: Pipeline, points: int = 1) -> float | None:
    """Say in a line how long the work takes, if that is long, and what is quicker.

    Args:
        work: The work once groups are known.
        pipeline: All passes that run in the end.
        points: How many smaller models are made.

    Returns:
        The estimated seconds; None where they are few or nothing is known.
    """
    effort = work.asked.options.effort
    found = work.statistics().forecast(effort)
    if found is None:
        return None
    try:
        nominal = _total(work, pipeline, points, effort)
        if nominal < _DOUBTFUL:
            return None
        slow = slowness(work.program, work.deps)
    except (RuntimeError, IndexError, TypeError, ValueError, GraphPruneError):
        return None  # the captured graph does not run by itself: nothing is known
    whole = slow * nominal
    if whole < LONG:
        return None
    quick = slow * _total(work, pipeline, points, "fast")
    stages = (found.making, found.weighing, found.solving, found.polishing)
    if points == 1:
        tail = nominal - sum(stages)
        work.statistics().expect(
            {name: slow * (sum(stages[i:]) + tail) for i, name in enumerate(STAGES, 1)}
        )
    text = f"{work.program.name}: this takes about {duration(whole)}"
    if quick < _SAVES * whole:
        text += f'; with effort="fast" about {duration(quick)}'
    announce(text)
    return whole


def teller(work: Work, pipeline: Pipeline, points: int | None) -> Callable[[], None]:
    """What a pipeline calls once groups are known; `points` of None: one for each group."""

    def tell() -> None:
        foretell(work, pipeline, len(work.deps.groups) if points is None else points)

    return tell


def _total(work: Work, pipeline: Pipeline, points: int, effort: str | float) -> float:
    """Estimated seconds on one core of all passes; those that make a model run for each point."""
    several = points != 1
    return sum(
        step.takes(work, effort) * (points if step.makes else 1)
        for step in pipeline
        if not (several and step.name in UNPROVEN)
    )


UNPROVEN = ("verify", "measure")
"""Passes that are left out where many smaller models are made."""
