"""select: which indices go, for an exact budget.

1. Every removable index gets a *level* (`allocate`); all indices up to one common level go.
2. The level is found by bisection on the exact costs.
3. Single steps are then taken or given back wherever that brings the costs nearer to the budget,
   until none does (`descend`).
4. Where a cost is a staircase (latency), counts are found by a knapsack instead (`knapsack`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import lcm
from typing import TypeAlias

import numpy as np

from graphprune.axes import Axis
from graphprune.budget import Budget
from graphprune.cost import Counts, Staircase, cost
from graphprune.dependencies import Dependencies
from graphprune.errors import BudgetError
from graphprune.importance import Scores
from graphprune.indices import Indices
from graphprune.passes.allocate import bounds, fixed, levels
from graphprune.passes.descend import Ladder, Moves, descend, follow
from graphprune.passes.knapsack import knapsack
from graphprune.passes.tie import Ties
from graphprune.request import Request

TOLERANCE = 0.01
NEEDED = 10.0  # levels of loss curves from here on mean that hardly anything would be left
_AUTO_ROUNDING = (8, 4, 2, 1)
_REACHES = (1 / 16, 1 / 4, 1 / 2, 1.0)  # how far a group may move from its level for the budget
_HALVINGS = 30  # of the interval in which a shift is sought
_MOST_STOPS = 16  # at which a group may stop on a staircase

Attempt: TypeAlias = tuple[float, Ties, int]


@dataclass(frozen=True)
class Selection:
    """What goes.

    Attributes:
        keep: Sorted indices that stay, for each group's axis that loses some.
        asked: The ratio asked for.
        achieved: The ratio reached.
        round_to: Kept counts are multiples of this, in groups large enough.
        of: The cost that the ratios speak of: of several, the one that decided.
    """

    keep: dict[Axis, Indices]
    asked: float
    achieved: float
    round_to: int
    of: str = "params"


def select(
    deps: Dependencies, scores: Sequence[Scores], request: Request, ties: Sequence[Ties] = ()
) -> Selection:
    """Choose the indices to keep.

    Args:
        deps: The analysis.
        scores: One score for each index of each group; the lowest go first.
        request: What is asked for.
        ties: Counts that should stay in proportion if the budget allows, the most wanted first.

    Raises:
        BudgetError: The ratio cannot be reached, or is too small to remove anything.
        GraphPruneError: A pattern matches no group, or a number is out of range.
    """
    if not deps.groups:
        raise BudgetError(_nothing(deps), closest=0.0)
    problem = _Problem(deps, scores, request)
    rounding = problem.rounding(request.round_to)
    preferences = [*map(problem.without, ties), Ties()]
    best: tuple[float, Counts, int] | None = None
    free = problem.solve(1, _REACHES[0]) if ties else problem.sizes
    for reach, preferred, step in _attempts(preferences, rounding):
        problem.ties = preferred
        counts = problem.solve(step, reach)
        if preferred.wish and reach < 1 and _lopsided(counts, free):
            continue
        slack = problem.budget.slack(counts)
        if best is None or problem.budget.better(slack, best[0]):
            best = (slack, counts, step)
        if problem.met(slack):
            break
    assert best is not None
    _, counts, step = best
    problem.check(counts)
    binding = problem.budget.binding(counts)
    return Selection(
        problem.kept(counts), binding.ratio, binding.removed(counts), step, binding.name
    )


def _attempts(preferences: Sequence[Ties], rounding: Sequence[int]) -> Iterator[Attempt]:
    """What to try, the best first: ties, little deviation from the levels, round widths."""
    *tied, free = preferences
    near = [(ties, _REACHES[:-1]) for ties in tied] + [(free, _REACHES[:2])]
    for ties, reaches in [*near, *((ties, _REACHES[-1:]) for ties in preferences)]:
        for reach in reaches:
            yield from ((reach, ties, step) for step in rounding)


def _lopsided(counts: Counts, free: Counts) -> bool:
    """Whether some group keeps less than a third of what it would keep if nothing were tied."""
    return bool((counts < np.floor(free / 3)).any())


def _nothing(deps: Dependencies) -> str:
    reasons = sorted({lock.reason for lock in deps.locks})[:5]
    return "no group of channels can be removed; locks: " + "; ".join(reasons)


class _Problem:
    """A budget, and one level for each index of each group."""

    def __init__(self, deps: Dependencies, scores: Sequence[Scores], request: Request) -> None:
        self.groups = deps.groups
        self.sizes: Counts = np.array([group.size for group in deps.groups], dtype=np.float64)
        self.grains = np.array([group.grain for group in deps.groups], dtype=np.int64)
        asked = request.asked()
        costs = {n: request.costs[n] if n in request.costs else cost(deps, n) for n in asked}
        self.budget = Budget(costs, asked, self.sizes, strict=bool(request.budget))
        stairs = [found for found in costs.values() if isinstance(found, Staircase)]
        self.staircase = stairs[0] if stairs and len(costs) == 1 else None
        self.order = [np.argsort(found, kind="stable") for found in scores]
        ordered = [found[order] for found, order in zip(scores, self.order, strict=True)]
        self.levels = levels(deps, ordered, request.allocation, request.normalize)
        self.ladder = Ladder(self.levels)
        self.curves = request.allocation == "loss"
        self.fixed = fixed(deps, request.ratios)
        self.least, self.most = bounds(deps, request.limits)
        for i, fraction in self.fixed.items():
            self.least[i] = self.most[i] = max(round(self.sizes[i] * (1 - fraction)), 1)
        self.ties = Ties()

    def without(self, ties: Ties) -> Ties:
        """Ties that do not touch the groups whose counts the caller has bounded."""
        bound = {i for i, size in enumerate(self.sizes) if self.least[i] > 1 or self.most[i] < size}
        followers = {
            width: held for width, held in ties.followers.items() if not bound & {width, *held}
        }
        steps = {width: ties.steps[width] for width in followers}
        return Ties(ties.frozen - bound, steps, followers, ties.wish)

    def rounding(self, round_to: int | str) -> Sequence[int]:
        """What kept counts may be multiples of, the best first."""
        if round_to != "auto":
            return (int(round_to),)
        if self.staircase is None:
            return _AUTO_ROUNDING
        return (self.staircase.step, *(s for s in _AUTO_ROUNDING if s < self.staircase.step))

    def met(self, slack: float) -> bool:
        """Whether a slack is near enough to what was asked."""
        return abs(slack) <= TOLERANCE / 2 and (slack >= 0 or not self.budget.strict)

    def solve(self, step: int, reach: float) -> Counts:
        """Kept counts whose costs are as near to the budget as possible.

        Args:
            step: What kept counts are multiples of, in groups large enough.
            reach: How far a group may move from the common level, as a share of its size.
        """
        if self.staircase is not None:
            return self._climb(step)
        rungs = self.ladder.rungs
        found = bisect_left(rungs, True, key=lambda x: self.budget.slack(self._at(x, step)) >= 0)
        counts = self._at(rungs[max(found - 1, 0)], step)
        steps = self._steps(step)
        span = np.maximum(reach * self.sizes, steps if reach == 1 else 0)
        bound = self.ties.frozen.union(*self.ties.followers.values())
        free = [i for i in range(len(self.groups)) if i not in bound and steps[i] <= span[i]]
        low = np.maximum(counts - span, self.least)
        high = np.minimum(counts + span, self.most)
        if reach < 1 and self.curves:
            low = np.maximum(low, np.minimum(counts, self._needed()))
        even = [i for i in free if i not in self.ties.steps]

        def shifted(by: float) -> Counts:
            moved = counts.copy()
            wanted = np.round((counts - by * self.sizes) / steps) * steps
            moved[even] = np.clip(wanted, np.ceil(low / steps) * steps, high)[even]
            return self._complete(moved)

        shift = _crossing(lambda x: self.budget.slack(shifted(x)) < 0, -reach, reach)
        return self._descend(shifted(shift), steps, free, (low, high))

    def _climb(self, step: int) -> Counts:
        """Counts at the steps of a staircase."""
        steps = self._steps(step)
        bound = self.ties.frozen.union(*self.ties.followers.values())
        stops = {}
        for i in (i for i in range(len(self.groups)) if i not in bound):
            width = steps[i] * max(self.sizes[i] // (_MOST_STOPS * steps[i]), 1)
            points = np.arange(width, self.sizes[i], width)
            stops[i] = np.append(points[points >= self.least[i]], self.least[i])
        counts = knapsack(
            self._complete(self.most.copy()),
            stops,
            self._losses(),
            lambda held, i, to: -self._changes(held, i, to)[0],
            self.budget.slack,
            self._complete,
        )
        return self._descend(counts, steps, list(stops), (self.least, self.most))

    def _losses(self) -> list[Scores]:
        """For each group what is lost once so many indices are gone, none first."""
        if self.curves:
            return [np.append(0.0, level) for level in self.levels]
        lowest = min(float(level[0]) for level in self.levels)
        sums = [np.cumsum(level - lowest) / len(level) for level in self.levels]
        return [np.append(0.0, total) for total in sums]

    def _needed(self) -> Counts:
        """Indices whose level says that they should stay unless nothing else is left to go."""
        return np.array([float((levels >= NEEDED).sum()) for levels in self.levels])

    def _at(self, level: float, step: int) -> Counts:
        counts = np.clip(self.sizes - self.ladder.up_to(level), self.least, self.most)
        steps = self._steps(step)
        rounded = np.maximum(np.round(counts / steps), 1.0) * steps
        rounded = np.clip(rounded, self.least, self.most)
        return self._complete(np.where(counts == self.sizes, counts, rounded))

    def _steps(self, step: int) -> Counts:
        steps = np.where(self.sizes >= 4 * step, float(step), 1.0)
        for width, multiple in self.ties.steps.items():
            both = lcm(multiple, step)
            steps[width] = both if self.sizes[width] >= 4 * both else multiple
        return np.lcm(steps.astype(np.int64), self.grains).astype(np.float64)

    def _complete(self, counts: Counts) -> Counts:
        """Let frozen groups and followers take the counts that their ties give them."""
        for i in self.ties.frozen:
            counts[i] = self.sizes[i]
        return follow(counts, self.sizes, self.ties.followers)

    def _descend(
        self, counts: Counts, steps: Counts, free: Sequence[int], bounds: tuple[Counts, Counts]
    ) -> Counts:
        moves = Moves(steps, free, *bounds, self.sizes, self.ties.followers)
        return descend(counts, moves, self.budget)

    def _changes(self, counts: Counts, i: int, to: float) -> list[float]:
        if i not in self.ties.followers:
            return [target.cost.change(counts, i, to) for target in self.budget.targets]
        changed = counts.copy()
        changed[i] = to
        after, before = self.budget.spent(self._complete(changed)), self.budget.spent(counts)
        return [a - b for a, b in zip(after, before, strict=True)]

    def kept(self, counts: Counts) -> dict[Axis, Indices]:
        """The indices that stay: those of highest score."""
        return {
            group.axis: np.sort(order[len(order) - int(count) :])
            for group, order, count in zip(self.groups, self.order, counts, strict=True)
            if count < group.size
        }

    def check(self, counts: Counts) -> None:
        """Refuse a choice that removes nothing, or less than asked because no more can go."""
        target = self.budget.binding(counts)
        achieved, ratio = target.removed(counts), target.ratio
        if ratio > 0 and (counts == self.sizes).all():
            one_less = (target.cost.change(self.sizes, i, s - 1) for i, s in enumerate(self.sizes))
            nearest = min(-change for change in one_less) / target.full if target.full else 0.0
            raise BudgetError(
                f"ratio {ratio:g} of {target.name} is too small to remove a single index; the "
                f"smallest reachable ratio is {nearest:.3g}",
                closest=nearest,
            )
        most = target.removed(self.least)
        if achieved < ratio - TOLERANCE and achieved >= most - TOLERANCE:
            raise BudgetError(
                f"ratio {ratio:g} of {target.name} cannot be reached: what is locked or needed "
                f"leaves {achieved:.3f} at most",
                closest=achieved,
            )


def _crossing(below: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number for which a monotone condition holds, by bisection."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low
