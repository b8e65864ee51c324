"""select: which indices go, for an exact budget.

Several attempts are made, the best first: counts tied where the model's own code assumes two
lengths equal (`tie`), each group near the count that its scores ask for, widths that are multiples
of 8. The first attempt that meets the budget is taken. Lengths that the code was found to assume
equal stay in proportion if the budget can be met within its tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from graphprune.choice.constants import LOPSIDED_PART, RATIO_TOLERANCE, REACHES
from graphprune.choice.request import Request
from graphprune.choice.solve import Problem
from graphprune.core.axes import Axis
from graphprune.core.errors import BudgetError
from graphprune.core.groups import Counts, Dependencies
from graphprune.core.indices import Indices
from graphprune.core.relations import Ties
from graphprune.importance import Scores

_SHOWN = 5  # most reasons for locks that an error lists

_OPEN = ("auto", "loss", "global")  # allocations that leave it open how much of each group goes

Attempt: TypeAlias = tuple[float, Ties, int]


@dataclass(frozen=True)
class Selection:
    """What is removed.

    Attributes:
        keep: Sorted indices that stay, for each group's axis that loses some.
        asked: The ratio asked for.
        achieved: The ratio reached.
        round_to: Kept counts are multiples of this: in groups that are large enough or, if the
            caller has given it, in all that lose anything.
        of: The cost that the ratios refer to; of several, the one that decided.
    """

    keep: dict[Axis, Indices]
    asked: float
    achieved: float
    round_to: int
    of: str = "params"


def fixed_only(
    deps: Dependencies, scores: Sequence[Scores], request: Request, ties: Sequence[Ties] = ()
) -> Selection:
    """Remove what `ratios` say and nothing else; the arguments are those of `select`.

    Raises:
        BudgetError: There is no group.
        GraphPruneError: A pattern matches no group.
    """
    if not deps.groups:
        raise BudgetError(_nothing(deps), closest=0.0)
    problem = Problem(deps, scores, replace(request, ratio=0.0))
    counts = problem.sizes.copy()
    for i in problem.fixed:
        counts[i] = problem.most[i]
    achieved = problem.budget.targets[0].removed(counts)
    return Selection(problem.kept(counts), achieved, achieved, problem.exact or 1, request.of)


def select(
    deps: Dependencies,
    scores: Sequence[Scores],
    request: Request,
    ties: Sequence[Ties] = (),
    costless: Counts | None = None,
) -> Selection:
    """Choose the indices to keep.

    Args:
        deps: The analysis.
        scores: One score for each index of each group; the lowest go first.
        request: What is asked for.
        ties: Counts that should stay in proportion if the budget allows, the best first.
        costless: How many indices of each group can go at no cost: where the allocation leaves
            it open how much of each group goes, they go before all others of all groups.

    Raises:
        BudgetError: The ratio cannot be reached, or is too small to remove anything.
        GraphPruneError: A pattern matches no group, or a number is out of range.
    """
    if not deps.groups:
        raise BudgetError(_nothing(deps), closest=0.0)
    problem = Problem(deps, scores, request)
    if costless is not None and costless.any() and request.allocation in _OPEN:
        counts = problem.let_go_first(costless, ties[0] if ties else Ties())
        if counts is not None:
            return _selection(problem, counts, 1)
        with suppress(BudgetError):  # with others it may be reached
            return _nearest(problem, ties)
        problem = Problem(deps, scores, request)
    return _nearest(problem, ties)


def _nearest(problem: Problem, ties: Sequence[Ties]) -> Selection:
    """The first attempt that meets the budget, or what comes nearest.

    Raises:
        BudgetError: That is not near enough.
    """
    rounding = problem.rounding()
    preferences = [*map(problem.without, ties), Ties()]
    best: tuple[float, Counts, int] | None = None
    needed: tuple[float, Counts, int] | None = None
    tied = problem.ties
    free = problem.solve(1, REACHES[0]) if ties else problem.sizes
    for reach, preferred, step in _attempts(preferences, rounding):
        if needed is not None and not preferred.needed:
            best = needed
            break
        problem.ties = preferred
        counts = problem.solve(step, reach)
        if preferred.wish and reach < 1 and _lopsided(counts, free):
            continue
        slack = problem.budget.slack(counts)
        if best is None or problem.budget.better(slack, best[0]):
            best, tied = (slack, counts, step), preferred
        if problem.met(slack):
            break
        near = preferred.needed and problem.met(slack, RATIO_TOLERANCE)
        if near and (needed is None or problem.budget.better(slack, needed[0])):
            needed = (slack, counts, step)
    assert best is not None
    slack, counts, step = best
    if not problem.even and not problem.met(slack, RATIO_TOLERANCE):
        problem.ties = tied
        counts = problem.nearest(counts)
        step = problem.exact or 1
    problem.check(counts)
    return _selection(problem, counts, step)


def _selection(problem: Problem, counts: Counts, step: int) -> Selection:
    binding = problem.budget.binding(counts)
    return Selection(
        problem.kept(counts), binding.ratio, binding.removed(counts), step, binding.name
    )


def _attempts(preferences: Sequence[Ties], rounding: Sequence[int]) -> Iterator[Attempt]:
    """What to try, the best first: ties, little deviation from the levels, round widths."""
    *tied, free = preferences
    near = [(ties, REACHES[:-1]) for ties in tied] + [(free, REACHES[:2])]
    for ties, reaches in [*near, *((ties, REACHES[-1:]) for ties in preferences)]:
        for reach in reaches:
            yield from ((reach, ties, step) for step in rounding)


def _lopsided(counts: Counts, free: Counts) -> bool:
    """Whether some group keeps less than a third of what it would keep if nothing were tied."""
    return bool((counts < np.floor(free / LOPSIDED_PART)).any())


def _nothing(deps: Dependencies) -> str:
    """Why nothing can be removed: operations without a rule first, since a rule can be added."""
    first = [
        f"there is no rule for {kind} (at {', '.join(names[:3])}{', ...' if names[3:] else ''}), "
        "so all that it touches is locked: graphprune.axis_rule adds one"
        for kind, names in deps.unknown.items()
    ]
    reasons = sorted({lock.reason for lock in deps.locks} - {None})
    others = [reason for reason in reasons if not reason.startswith("unknown operation")]
    text = "; ".join([*first, f"locks: {'; '.join(others[:_SHOWN])}"])
    return f"no group of channels can be removed; {text}"
