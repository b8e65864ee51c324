"""solve: how many indices each group keeps, for an exact budget.

1. Every removable index gets a *level* (`allocate`); all indices up to one common level go. Loss
   curves become levels by what an index saves (`price`), at the counts that were found last.
2. The level is found by bisection on the exact costs.
3. Single steps are then taken or given back wherever that brings the costs nearer to the budget,
   until none does (`descend`). A group that was whole before them stays whole where the budget is
   met without it, and steps of two groups are exchanged where less is lost so (`exchange`).
4. Where a cost is a staircase (latency), counts are found by a knapsack instead (`knapsack`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from math import gcd, lcm

import numpy as np
import numpy.typing as npt

from graphprune.choice.allocate import bounds, fixed, levels, rounded
from graphprune.choice.constants import (
    AUTO_ROUNDING,
    RATIO_TOLERANCE,
    ROUNDED_FROM_STEPS,
    STAIRCASE_STOPS,
)
from graphprune.choice.descend import Ladder, Moves, descend, follow
from graphprune.choice.exchange import closed, exchange
from graphprune.choice.knapsack import knapsack
from graphprune.choice.nearest import nearest
from graphprune.choice.price import joined, settled
from graphprune.choice.request import Request
from graphprune.core.axes import Axis
from graphprune.core.errors import BudgetError
from graphprune.core.groups import Counts, Dependencies
from graphprune.core.indices import Indices
from graphprune.core.relations import Ties
from graphprune.costs.budget import Budget
from graphprune.costs.counted import Smooth, Staircase
from graphprune.costs.registry import cost_of
from graphprune.importance import Scores
from graphprune.importance.constants import NEEDED

_HALVINGS = 30  # bisection steps: the interval shrinks by 2**30
_NAMED = 5  # most groups that an error names


class Problem:
    """A budget, and one level for each index of each group."""

    def __init__(self, deps: Dependencies, scores: Sequence[Scores], request: Request) -> None:
        self.groups = deps.groups
        self.sizes: Counts = np.array([group.size for group in deps.groups], dtype=np.float64)
        self.grains = np.array([group.grain for group in deps.groups], dtype=np.int64)
        asked = request.asked()
        costs = {n: request.costs[n] if n in request.costs else cost_of(deps, n) for n in asked}
        self.budget = Budget(costs, asked, self.sizes, strict=bool(request.budget))
        stairs = [found for found in costs.values() if isinstance(found, Staircase)]
        self.staircase = stairs[0] if stairs and len(costs) == 1 else None
        self.order = [np.argsort(found, kind="stable") for found in scores]
        ordered = [found[order] for found, order in zip(scores, self.order, strict=True)]
        self.levels = levels(deps, ordered, request.allocation, request.normalize)
        self.ladder = Ladder(self.levels)
        self.curves = request.allocation == "loss"
        self.even = request.allocation == "uniform"
        smooth = all(isinstance(found, Smooth) for found in costs.values())
        self.prices = self.curves and smooth
        self.least, self.most = bounds(deps, request)
        self.fixed = fixed(deps, request, self.least, self.most)
        for i, count in self.fixed.items():
            self.least[i] = self.most[i] = count
        within = zip(self.least, self.most, self.sizes, strict=True)
        self.bound = {i for i, (low, high, size) in enumerate(within) if low > 1 or high < size}
        self.exact = request.step()
        self.aligned = (self.grains > 1) | (self.exact is not None)
        step = self.exact or 1  # kernels ask for multiples where the caller does not
        self.least, self.most = rounded(deps, step, self.fixed, self.least, self.most)
        self.ties = Ties()

    def let_go_first(self, costless: Counts, ties: Ties) -> Counts | None:
        """Let what costs nothing go first.

        Args:
            costless: How many indices of each group cost nothing.
            ties: Counts that should stay in proportion.

        Returns:
            The counts once all of them are gone, if that meets the budget. Else no group keeps any
            of them from now on, or, if they are more than is asked for, none loses others.
        """
        if self.exact is not None:
            return None
        counts = np.clip(self.sizes - costless, self.least, self.most)
        self.ties = self.without(ties)
        tied, slack = self._complete(counts.copy()), self.budget.slack(counts)
        self.ties = Ties()
        if self.met(slack) and bool((tied == counts).all()):
            return counts
        if slack < 0:
            self.most = counts
        else:
            self.least = counts
        return None

    def without(self, ties: Ties) -> Ties:
        """The ties without those of groups that `ratios=` or `limits=` bound."""
        bound = self.bound
        followers = {
            width: held for width, held in ties.followers.items() if not bound & {width, *held}
        }
        steps = {width: ties.steps[width] for width in followers}
        frozen = ties.frozen - bound
        return Ties(frozen, steps, followers, ties.wish, ties.needed and bool(frozen or followers))

    def rounding(self) -> Sequence[int]:
        """Numbers that kept counts may be rounded to multiples of, the best first."""
        if self.exact is not None:
            return (self.exact,)
        if self.staircase is None:
            return AUTO_ROUNDING
        return (self.staircase.step, *(s for s in AUTO_ROUNDING if s < self.staircase.step))

    def met(self, slack: float, tolerance: float = RATIO_TOLERANCE / 2) -> bool:
        """Whether what was removed is near enough to what was asked."""
        return abs(slack) <= tolerance and (slack >= 0 or not self.budget.strict)

    def solve(self, step: int, reach: float) -> Counts:
        """The counts whose costs are nearest to the budget.

        Args:
            step: Counts are rounded to multiples of it: in groups that are large enough or, if
                the caller has given `round_to=`, in all.
            reach: How far a group's count may be from the one at the common level, as a share of
                its size.
        """
        if self.staircase is not None:
            return self._climb(step)
        counts = self._lowest(self.ladder, step) if not self.prices else self._settled(step)
        steps = self._steps(step)
        span = np.maximum(reach * self.sizes, steps if reach == 1 else 0)
        bound = self.ties.frozen.union(*self.ties.followers.values())
        free = [i for i in range(len(self.groups)) if i not in bound and steps[i] <= span[i]]
        low = np.maximum(counts - span, self.least)
        high = np.minimum(counts + span, self.most)
        multiples = self.aligned & (high < self.sizes)
        high = np.where(multiples, np.floor(high / steps) * steps, high)
        if reach < 1 and self.curves:
            low = np.maximum(low, np.minimum(counts, self._needed()))
        even = [i for i in free if i not in self.ties.steps]

        def shifted(by: float) -> Counts:
            moved = counts.copy()
            wanted = np.round((counts - by * self.sizes) / steps) * steps
            floor = np.minimum(np.ceil(low / steps) * steps, high)
            moved[even] = np.clip(wanted, floor, high)[even]
            return self._complete(moved)

        shift = _crossing(lambda x: self.budget.slack(shifted(x)) < 0, -reach, reach)
        near = shifted(shift)
        counts = self._descend(near, steps, free, (low, high))
        counts = closed(near, counts, self.sizes, self._losses(), self._complete, self._enough)
        return self._exchanged(counts, steps, free) if self.prices else counts

    def _exchanged(self, counts: Counts, steps: Counts, free: Sequence[int]) -> Counts:
        """Counts that lose less, where the budget is met."""
        if abs(self.budget.slack(counts)) > RATIO_TOLERANCE / 2:
            return counts
        losses, _ = joined(self.levels, self.sizes, self.ties.followers)
        moves = self._moves(steps, free, self.least, self.most)
        return exchange(counts, losses, moves, self._enough)

    def _enough(self, counts: Counts) -> bool:
        return self.met(self.budget.slack(counts))

    def _lowest(self, ladder: Ladder, step: int) -> Counts:
        """Counts at the highest common level that leaves more than the budget."""

        def enough(level: float) -> bool:
            return self.budget.slack(self._at(ladder, level, step)) >= 0

        found = bisect_left(ladder.rungs, True, key=enough)
        return self._at(ladder, ladder.rungs[max(found - 1, 0)], step)

    def _settled(self, step: int) -> Counts:
        """Counts at which every group loses the same per unit of cost saved."""
        return settled(
            self.levels,
            self.ties.followers,
            self.budget.slopes,
            lambda ladder: self._lowest(ladder, step),
        )

    def _climb(self, step: int) -> Counts:
        """Counts for a cost that is a staircase: each group stops at the end of a step."""
        steps = self._steps(step)
        bound = self.ties.frozen.union(*self.ties.followers.values())
        stops = {}
        for i in (i for i in range(len(self.groups)) if i not in bound):
            width = steps[i] * max(self.sizes[i] // (STAIRCASE_STOPS * steps[i]), 1)
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
        """For each group the loss once 0, 1, 2, ... of its indices are gone."""
        if self.curves:
            return [np.append(0.0, level) for level in self.levels]
        lowest = min(float(level[0]) for level in self.levels)
        sums = [np.cumsum(level - lowest) / len(level) for level in self.levels]
        return [np.append(0.0, total) for total in sums]

    def _needed(self) -> Counts:
        """For each group the number of indices that go only when no others are left."""
        return np.array([float((levels >= NEEDED).sum()) for levels in self.levels])

    def _at(self, ladder: Ladder, level: float, step: int) -> Counts:
        counts = np.clip(self.sizes - ladder.up_to(level), self.least, self.most)
        steps = self._steps(step)
        even = np.maximum(np.round(counts / steps), 1.0) * steps
        even = np.clip(even, self.least, self.most)
        return self._complete(np.where(counts == self.sizes, counts, even))

    def _steps(self, step: int) -> Counts:
        if self.exact is not None:
            return self._exact_steps(step)
        steps = np.where(self.sizes >= ROUNDED_FROM_STEPS * step, float(step), 1.0)
        for width, multiple in self.ties.steps.items():
            least = multiple * self._for_followers(width, multiple, self.grains)
            both = lcm(least, step)
            steps[width] = both if self.sizes[width] >= ROUNDED_FROM_STEPS * both else least
        return np.lcm(steps.astype(np.int64), self.grains).astype(np.float64)

    def _exact_steps(self, step: int) -> Counts:
        """Steps that keep every count a multiple, those of followers included.

        A group that is smaller than its step stays whole.
        """
        steps = np.lcm(np.full(len(self.sizes), step), self.grains)
        for width, multiple in self.ties.steps.items():
            own = int(steps[width]) // gcd(int(steps[width]), multiple)
            steps[width] = multiple * lcm(own, self._for_followers(width, multiple, steps))
        out: Counts = steps.astype(np.float64)
        return out

    def _for_followers(self, leader: int, multiple: int, steps: npt.NDArray[np.int64]) -> int:
        """How many multiples a leader goes at once, so that followers go by whole steps."""
        out = 1
        for i in self.ties.followers[leader]:
            share = int(self.sizes[i]) * multiple // int(self.sizes[leader])
            out = lcm(out, int(steps[i]) // gcd(int(steps[i]), share))
        return out

    def _complete(self, counts: Counts) -> Counts:
        """Set the counts of frozen groups and of followers, which their ties decide."""
        for i in self.ties.frozen:
            counts[i] = self.sizes[i]
        return follow(counts, self.sizes, self.ties.followers)

    def nearest(self, counts: Counts) -> Counts:
        """Counts nearer to the budget than single steps come, of two groups at once."""
        if self.staircase is not None:
            return counts
        bound = self.ties.frozen.union(*self.ties.followers.values())
        free = [i for i in range(len(self.groups)) if i not in bound and i not in self.fixed]
        moves = self._moves(self._steps(self.exact or 1), free, self.least, self.most)

        def met(slack: float) -> bool:
            return self.met(slack, RATIO_TOLERANCE)

        return nearest(counts, moves, self.budget, self._complete, met)

    def _descend(
        self, counts: Counts, steps: Counts, free: Sequence[int], bounds: tuple[Counts, Counts]
    ) -> Counts:
        return descend(counts, self._moves(steps, free, *bounds), self.budget)

    def _moves(self, steps: Counts, free: Sequence[int], low: Counts, high: Counts) -> Moves:
        return Moves(steps, free, low, high, self.sizes, self.ties.followers, self.aligned)

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
        """Refuse a choice that removes nothing, less than can go, or more than was asked for."""
        target = self.budget.binding(counts)
        achieved, ratio = target.removed(counts), target.ratio
        forced = target.removed(self.most)
        if forced > ratio + RATIO_TOLERANCE and not self.budget.strict:
            names = [self.groups[i].name for i in sorted(self.bound) if counts[i] < self.sizes[i]]
            raise BudgetError(
                f"ratio {ratio:g} of {target.name} cannot be met: what ratios= and limits= take "
                f"from {', '.join(names[:_NAMED])}{', ...' if names[_NAMED:] else ''} alone is "
                f"{forced:.3f}; ask for at least that, or leave out ratio= so that nothing else "
                "goes",
                closest=forced,
            )
        if ratio > 0 and (counts == self.sizes).all():
            closest = self._smallest()
            if self.exact is not None and closest == 0:
                raise BudgetError(
                    f"no group can lose indices with round_to={self.exact}: none that may shrink "
                    "holds more than that; lower it",
                    closest=0.0,
                )
            step = "" if self.exact is None else f" with round_to={self.exact}"
            raise BudgetError(
                f"ratio {ratio:g} of {target.name} is too small to remove a single index{step}; "
                f"the smallest reachable ratio is {closest:.3g}",
                closest=closest,
            )
        most = target.removed(self.least)
        if achieved < ratio - RATIO_TOLERANCE and achieved >= most - RATIO_TOLERANCE:
            raise BudgetError(
                f"ratio {ratio:g} of {target.name} cannot be reached: what is locked or needed "
                f"leaves {achieved:.3f} at most",
                closest=achieved,
            )

    def _smallest(self) -> float:
        """The smallest ratio that removes anything."""
        target = self.budget.binding(self.sizes)
        step = 1 if self.exact is None else self.exact
        to, able = self._moves(
            np.full(len(self.sizes), float(step)), range(len(self.sizes)), self.least, self.most
        ).possible(self.sizes, -1.0)
        saved = [-target.cost.change(self.sizes, i, to[i]) for i in able]
        return min(saved, default=0.0) / target.full if target.full else 0.0


def _crossing(below: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number for which a monotone condition holds, by bisection."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return low
