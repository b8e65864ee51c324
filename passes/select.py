"""select: which indices go, for an exact budget.

1. Every removable index gets a *level*: its rank in its group as a fraction (`uniform`), or its
   score relative to its group's mean (`global`). All indices up to one common level go.
2. The level is found by bisection on the exact cost.
3. Single indices are then removed or restored wherever that brings the cost nearer to the
   budget, until none does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import TypeAlias

import numpy as np

from graphprune.axes import Axis
from graphprune.cost import Counts, Polynomial, cost
from graphprune.dependencies import Dependencies, Group
from graphprune.errors import BudgetError, GraphPruneError
from graphprune.importance import Scores
from graphprune.indices import Indices
from graphprune.passes.couple import matches
from graphprune.passes.tie import Ties

TOLERANCE = 0.01
NEEDED = 10.0  # levels of loss curves from here on mean that hardly anything would be left
_AUTO_ROUNDING = (8, 4, 2, 1)
_REACHES = (1 / 16, 1 / 4, 1 / 2, 1.0)  # how far a group may move from its level for the budget

Attempt: TypeAlias = tuple[float, Ties, int]


@dataclass(frozen=True)
class Selection:
    """What goes.

    Attributes:
        keep: Sorted indices that stay, for each group's axis that loses some.
        asked: The ratio asked for.
        achieved: The ratio reached.
        round_to: Kept counts are multiples of this, in groups large enough.
    """

    keep: dict[Axis, Indices]
    asked: float
    achieved: float
    round_to: int


def select(
    deps: Dependencies,
    scores: Sequence[Scores],
    ratio: float,
    of: str = "params",
    allocation: str = "auto",
    ratios: Mapping[str, float] | None = None,
    round_to: int | str = "auto",
    ties: Sequence[Ties] = (),
) -> Selection:
    """Choose the indices to keep.

    Args:
        deps: The analysis.
        scores: One score for each index of each group; the lowest go first.
        ratio: Fraction of the cost to remove.
        of: The cost: `"params"`, `"macs"` or `"channels"`.
        allocation: `"uniform"` (also `"auto"`), `"global"`, or `"loss"`: the scores are levels.
        ratios: Fractions of channels to remove from the groups of certain layers, by name
            pattern; the rest of the budget falls on the other groups.
        round_to: Kept counts become multiples of this in groups at least four times as large;
            `"auto"` takes the largest of 8, 4, 2, 1 that still meets the budget.
        ties: Counts that should stay in proportion if the budget allows, the most wanted first.

    Raises:
        BudgetError: The ratio cannot be reached, or is too small to remove anything.
        GraphPruneError: A pattern in `ratios` matches no group, or a fraction is outside [0, 1).
    """
    if not deps.groups:
        raise BudgetError(_nothing(deps), closest=0.0)
    problem = _Problem(deps, scores, of, allocation, ratios or {})
    rounding = _AUTO_ROUNDING if round_to == "auto" else (int(round_to),)
    preferences = [*map(problem.without, ties), Ties()]
    best: Selection | None = None
    for reach, preferred, step in _attempts(preferences, rounding):
        problem.ties = preferred
        counts = problem.solve(ratio, step, reach)
        found = Selection(problem.kept(counts), ratio, problem.ratio(counts), step)
        if best is None or abs(found.achieved - ratio) < abs(best.achieved - ratio):
            best = found
        if abs(found.achieved - ratio) <= TOLERANCE / 2:
            break
    assert best is not None
    problem.check(best, ratio)
    return best


def _attempts(preferences: Sequence[Ties], rounding: Sequence[int]) -> Iterator[Attempt]:
    """What to try, the best first: ties, little deviation from the levels, round widths."""
    *tied, free = preferences
    near = [(ties, _REACHES[:-1]) for ties in tied] + [(free, _REACHES[:2])]
    for ties, reaches in [*near, *((ties, _REACHES[-1:]) for ties in preferences)]:
        for reach in reaches:
            yield from ((reach, ties, step) for step in rounding)


def _nothing(deps: Dependencies) -> str:
    reasons = sorted({lock.reason for lock in deps.locks})[:5]
    return "no group of channels can be removed; locks: " + "; ".join(reasons)


class _Problem:
    """One cost, one level for each index of each group."""

    def __init__(
        self,
        deps: Dependencies,
        scores: Sequence[Scores],
        of: str,
        allocation: str,
        ratios: Mapping[str, float],
    ) -> None:
        self.groups = deps.groups
        self.sizes: Counts = np.array([group.size for group in deps.groups], dtype=np.float64)
        self.grains = np.array([group.grain for group in deps.groups], dtype=np.int64)
        self.cost: Polynomial = cost(deps, of)
        self.of = of
        self.full = self.cost(self.sizes)
        self.order = [np.argsort(found, kind="stable") for found in scores]
        self.levels = [
            _levels(found[order], allocation)
            for found, order in zip(scores, self.order, strict=True)
        ]
        self.fixed = _fixed(deps.groups, ratios)
        self.ties = Ties()

    def without(self, ties: Ties) -> Ties:
        """Ties that do not touch the groups whose fraction the caller has fixed."""
        followers = {
            width: held
            for width, held in ties.followers.items()
            if not self.fixed.keys() & {width, *held}
        }
        steps = {width: ties.steps[width] for width in followers}
        return Ties(ties.frozen - self.fixed.keys(), steps, followers)

    def ratio(self, counts: Counts) -> float:
        return 1.0 - self.cost(counts) / self.full if self.full else 0.0

    def solve(self, ratio: float, step: int, reach: float) -> Counts:
        """Kept counts whose cost is as near to the budget as possible.

        Args:
            ratio: Fraction of the cost to remove.
            step: What kept counts are multiples of, in groups large enough.
            reach: How far a group may move from the common level, as a share of its size.
        """
        most = max(float(level[-1]) for level in self.levels) + 1.0
        level = _crossing(lambda x: self.ratio(self._at(x, step)) < ratio, 0.0, most)
        counts = self._at(level, step)
        steps = self._steps(step)
        span = np.maximum(reach * self.sizes, steps if reach == 1 else 0)
        bound = self.fixed.keys() | self.ties.frozen
        bound = bound.union(*self.ties.followers.values())
        free = [i for i in range(len(self.groups)) if i not in bound and steps[i] <= span[i]]
        low, high = np.maximum(counts - span, 1), np.minimum(counts + span, self.sizes)
        if reach < 1:
            low = np.maximum(low, np.minimum(counts, self._needed()))
        even = [i for i in free if i not in self.ties.steps]

        def shifted(by: float) -> Counts:
            moved = counts.copy()
            wanted = np.round((counts - by * self.sizes) / steps) * steps
            moved[even] = np.clip(wanted, np.ceil(low / steps) * steps, high)[even]
            return self._complete(moved)

        shift = _crossing(lambda x: self.ratio(shifted(x)) < ratio, -reach, reach)
        return self._descend(shifted(shift), ratio, steps, free, (low, high))

    def _needed(self) -> Counts:
        """Indices whose level says that they should stay unless nothing else is left to go."""
        return np.array([float((levels >= NEEDED).sum()) for levels in self.levels])

    def _at(self, level: float, step: int) -> Counts:
        gone = np.array([np.searchsorted(levels, level, side="right") for levels in self.levels])
        counts = np.maximum(self.sizes - gone, 1.0)
        for i, fixed in self.fixed.items():
            counts[i] = max(round(self.sizes[i] * (1 - fixed)), 1)
        steps = self._steps(step)
        rounded = np.maximum(np.round(counts / steps), 1.0) * steps
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
        for width, followers in self.ties.followers.items():
            for i in followers:
                counts[i] = counts[width] * self.sizes[i] // self.sizes[width]
        return counts

    def _descend(
        self,
        counts: Counts,
        ratio: float,
        steps: Counts,
        free: Sequence[int],
        bounds: tuple[Counts, Counts],
    ) -> Counts:
        """Move single steps towards the budget for as long as that brings it nearer."""
        low, high = bounds
        error = self.cost(counts) - self.full * (1 - ratio)
        for _ in range(4 * len(free) + 64):
            best = (abs(error), -1, 0.0, 0.0)
            for i in free:
                to = min(counts[i] - steps[i] if error > 0 else counts[i] + steps[i], self.sizes[i])
                if not low[i] <= to <= high[i] or to == counts[i]:
                    continue
                change = self._change(counts, i, to)
                if abs(error + change) < best[0]:
                    best = (abs(error + change), i, to, change)
            if best[1] < 0:
                break
            counts[best[1]] = best[2]
            self._complete(counts)
            error += best[3]
        return counts

    def _change(self, counts: Counts, i: int, to: float) -> float:
        if i not in self.ties.followers:
            return self.cost.change(counts, i, to)
        changed = counts.copy()
        changed[i] = to
        return self.cost(self._complete(changed)) - self.cost(counts)

    def kept(self, counts: Counts) -> dict[Axis, Indices]:
        """The indices that stay: those of highest score."""
        return {
            group.axis: np.sort(order[len(order) - int(count) :])
            for group, order, count in zip(self.groups, self.order, counts, strict=True)
            if count < group.size
        }

    def check(self, found: Selection, ratio: float) -> None:
        most = self.ratio(np.ones_like(self.sizes)) if not self.fixed else found.achieved
        if ratio > 0 and not found.keep:
            smallest = min(
                -self.cost.change(self.sizes, i, self.sizes[i] - 1) for i in range(len(self.sizes))
            )
            nearest = smallest / self.full if self.full else 0.0
            raise BudgetError(
                f"ratio {ratio:g} of {self.of} is too small to remove a single index; the smallest "
                f"reachable ratio is {nearest:.3g}",
                closest=nearest,
            )
        if found.achieved < ratio - TOLERANCE and found.achieved >= most - TOLERANCE:
            raise BudgetError(
                f"ratio {ratio:g} of {self.of} cannot be reached: what is locked or needed leaves "
                f"{found.achieved:.3f} at most",
                closest=found.achieved,
            )


def _crossing(below: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number for which a monotone condition holds, by bisection."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low


def _levels(ordered: Scores, allocation: str) -> Scores:
    size = len(ordered)
    if allocation in ("uniform", "auto"):
        return (np.arange(size) + 0.5) / size
    if allocation == "loss":
        return ordered
    if allocation == "global":
        mean = float(ordered.mean())
        return ordered / mean if mean > 0 else (np.arange(size) + 0.5) / size
    raise GraphPruneError(f"no allocation {allocation!r}: choose from auto, uniform, global")


def _fixed(groups: Sequence[Group], ratios: Mapping[str, float]) -> dict[int, float]:
    fixed: dict[int, float] = {}
    for pattern, fraction in ratios.items():
        if not 0 <= fraction < 1:
            raise GraphPruneError(f"ratios: {pattern!r} is {fraction}, outside [0, 1)")
        found = [g for g in groups if any(matches(m.weight, pattern) for m in g.members)]
        if not found:
            raise GraphPruneError(f"ratios: {pattern!r} matches no layer that can be pruned")
        fixed.update((group.id, fraction) for group in found)
    return fixed
