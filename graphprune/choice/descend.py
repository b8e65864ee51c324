"""descend: greedy single steps towards the budget, until none brings the cost nearer.

1. Every pass looks at each group once, those whose step changes the costs most first.
2. A step is kept if it brings the slack (removed minus asked ratio) nearer to zero. Costs are
   exact, not estimated.

Costs that are polynomials in the counts (parameters, MACs) run compiled: a step only evaluates the
monomials in which the group occurs. These costs are whole numbers, so the compiled and the plain
way find the same counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from graphprune.choice.constants import COMPILED_FROM_GROUPS, DESCENT_PASSES
from graphprune.core.groups import Counts
from graphprune.costs.budget import Budget
from graphprune.costs.counted import Polynomial
from graphprune.importance import Scores


class Ladder:
    """How many levels of each group lie up to a common one.

    Args:
        levels: For each group its levels, ascending.

    Attributes:
        rungs: All levels there are, ascending, the first below all of them.
    """

    def __init__(self, levels: Sequence[Scores]) -> None:
        self._levels = levels
        self._flat, self._starts = np.concatenate(levels), np.cumsum([0, *map(len, levels)])
        distinct = np.unique(self._flat)
        self.rungs: list[float] = [float(distinct[0]) - 1.0, *distinct.tolist()]

    def up_to(self, level: float) -> Counts:
        """For each group the number of levels that are not above this one."""
        if len(self._levels) >= COMPILED_FROM_GROUPS:
            found: Counts = _up_to(self._flat, self._starts, level)
            return found
        found = np.array([np.searchsorted(held, level, side="right") for held in self._levels])
        return found.astype(np.float64)


@numba.njit(cache=True)
def _up_to(flat: Any, starts: Any, level: float) -> Any:  # pragma: no cover
    out = np.empty(len(starts) - 1)
    for i in range(len(out)):
        low, high = starts[i], starts[i + 1]
        while low < high:
            middle = (low + high) // 2
            if flat[middle] <= level:
                low = middle + 1
            else:
                high = middle
        out[i] = low - starts[i]
    return out


@dataclass(frozen=True)
class Moves:
    """The steps that counts may take.

    Attributes:
        steps: The step of each group.
        free: The groups that may move.
        low: The least of each group.
        high: The most of each group.
        sizes: The groups' full sizes.
        followers: Groups whose counts are in proportion to another's.
        aligned: For each group whether its count is a multiple of its step, or the full size.
    """

    steps: Counts
    free: Sequence[int]
    low: Counts
    high: Counts
    sizes: Counts
    followers: Mapping[int, Sequence[int]]
    aligned: npt.NDArray[np.bool_]

    def possible(self, counts: Counts, sign: float) -> tuple[Counts, list[int]]:
        """Every group's count after a step up or down, and the groups that may take it."""
        to = np.minimum(counts + sign * self.steps, self.sizes)
        if sign < 0:  # from a full size that is no multiple
            to = np.where(self.aligned, (np.ceil(counts / self.steps) - 1) * self.steps, to)
        able = (to >= self.low) & (to <= self.high) & (to != counts)
        return to, [i for i in self.free if able[i]]


def descend(counts: Counts, moves: Moves, budget: Budget) -> Counts:
    """Counts whose costs are nearer to the budget.

    Args:
        counts: Where to start.
        moves: Which steps may be taken.
        budget: The costs and what is asked of them.
    """
    exact = all(isinstance(target.cost, Polynomial) for target in budget.targets)
    nested = any(i in moves.followers for held in moves.followers.values() for i in held)
    work = compiled if exact and not nested and len(moves.sizes) >= COMPILED_FROM_GROUPS else plain
    return work(counts, moves, budget)


def follow(counts: Counts, sizes: Counts, followers: Mapping[int, Sequence[int]]) -> Counts:
    """Set the counts of followers in proportion to their leaders'; in place."""
    for width, held in followers.items():
        for i in held:
            counts[i] = counts[width] * sizes[i] // sizes[width]
    return counts


def plain(counts: Counts, moves: Moves, budget: Budget) -> Counts:
    """As `descend`, for costs of any kind."""
    counts = counts.copy()
    changes_of = _changes(budget, moves)
    spent = budget.spent(counts)
    for _ in range(DESCENT_PASSES):
        slack = budget.slack_of(spent)
        to, able = moves.possible(counts, -1.0 if slack < 0 else 1.0)
        changes = {i: changes_of(counts, i, to[i]) for i in able}
        able.sort(key=lambda i: -max(abs(change) for change in changes[i]))
        moved = False
        for i in able:
            change = changes_of(counts, i, to[i]) if moved else changes[i]
            after = [a + b for a, b in zip(spent, change, strict=True)]
            if budget.better(budget.slack_of(after), slack):
                counts[i] = to[i]
                follow(counts, moves.sizes, moves.followers)
                spent, slack, moved = after, budget.slack_of(after), True
        if not moved:
            break
    return counts


def _changes(budget: Budget, moves: Moves) -> Callable[[Counts, int, float], list[float]]:
    def changes(counts: Counts, i: int, to: float) -> list[float]:
        if i not in moves.followers:
            return [target.cost.change(counts, i, to) for target in budget.targets]
        changed = counts.copy()
        changed[i] = to
        after = budget.spent(follow(changed, moves.sizes, moves.followers))
        return [a - b for a, b in zip(after, budget.spent(counts), strict=True)]

    return changes


def compiled(counts: Counts, moves: Moves, budget: Budget) -> Counts:
    """As `descend`, where every cost is a polynomial."""
    form = _Form(budget, moves.sizes, moves.followers)
    counts = np.append(counts, 1.0)  # what the products are padded with
    values, spent = form.spent(counts)
    for _ in range(DESCENT_PASSES):
        sign = -1.0 if budget.slack_of(list(spent)) < 0 else 1.0
        to, found = moves.possible(counts[:-1], sign)
        able = np.array(found, dtype=np.int64)
        gains = np.empty(len(able))
        _walk(able, to, False, gains, counts, values, spent, *form.arrays)
        able = able[np.argsort(-gains, kind="stable")]
        if not _walk(able, to, True, gains, counts, values, spent, *form.arrays):
            break
    return counts[:-1]


class _Form:
    """The polynomials of a budget as arrays.

    Attributes:
        arrays: Groups and coefficient of every product, and the cost that it belongs to; the
            products that change with each group; each group's followers; the groups' sizes; full
            costs, ratios and whether they are limits.
    """

    def __init__(
        self, budget: Budget, sizes: Counts, followers: Mapping[int, Sequence[int]]
    ) -> None:
        parts = [t.cost for t in budget.targets if isinstance(t.cost, Polynomial)]
        offsets = np.cumsum([0, *(len(part.ids) for part in parts)])
        degree = max(part.ids.shape[1] for part in parts)
        self.ids = np.full((offsets[-1], degree), len(sizes), dtype=np.int64)
        for part, at in zip(parts, offsets, strict=False):
            self.ids[at : at + len(part.ids), : part.ids.shape[1]] = part.ids
        self.coefficients = np.concatenate([part.coefficients for part in parts])
        self.owner = np.repeat(np.arange(len(parts)), np.diff(offsets))
        rows = []
        for i in range(len(sizes)):
            moved = [i, *followers.get(i, ())]
            pairs = [(p.rows[m] + at) for p, at in zip(parts, offsets, strict=False) for m in moved]
            both = np.concatenate(pairs)
            rows.append(np.unique(both) if len(moved) > 1 else both)
        held = [np.asarray(followers.get(i, ()), dtype=np.int64) for i in range(len(sizes))]
        self.arrays = (
            self.ids, self.coefficients, self.owner, *_ragged(rows), *_ragged(held), sizes,
            np.array([t.full for t in budget.targets]), np.array([t.ratio for t in budget.targets]),
            budget.strict,
        )  # fmt: skip

    def spent(self, counts: Counts) -> tuple[Counts, Counts]:
        """The value of every product, and every cost."""
        values: Counts = self.coefficients * counts[self.ids].prod(axis=1)
        total: Counts = np.zeros(self.owner[-1] + 1)
        np.add.at(total, self.owner, values)
        return values, total


def _ragged(rows: Sequence[Any]) -> tuple[Any, Any]:
    """Rows one behind the other, and where each begins."""
    starts = np.cumsum([0, *map(len, rows)])
    return np.concatenate(rows), starts


@numba.njit(cache=True)
def _slack(spent: Any, change: Any, full: Any, ratio: Any) -> float:  # pragma: no cover
    least = np.inf
    for t in range(len(spent)):
        gone = 1.0 - (spent[t] + change[t]) / full[t] if full[t] != 0.0 else 0.0
        if gone - ratio[t] < least:
            least = gone - ratio[t]
    return least


@numba.njit(cache=True)
def _move(
    i: int, count: float, counts: Any, held: Any, held_starts: Any, sizes: Any
) -> None:  # pragma: no cover
    counts[i] = count
    for at in range(held_starts[i], held_starts[i + 1]):
        counts[held[at]] = count * sizes[held[at]] // sizes[i]


@numba.njit(cache=True)
def _walk(
    able: Any, to: Any, take: bool, gains: Any, counts: Any, values: Any, spent: Any,
    ids: Any, coefficients: Any, owner: Any, rows: Any, row_starts: Any, held: Any,
    held_starts: Any, sizes: Any, full: Any, ratio: Any, strict: bool,
) -> bool:  # pragma: no cover  # fmt: skip
    """Try the step of each group: take those that help, or only tell how much each changes."""
    change, new = np.zeros(len(full)), np.empty(len(values))
    slack = _slack(spent, change, full, ratio)
    moved = False
    for place in range(len(able)):
        i = able[place]
        before = counts[i]
        _move(i, to[i], counts, held, held_starts, sizes)
        for t in range(len(full)):
            change[t] = 0.0
        for at in range(row_starts[i], row_starts[i + 1]):
            row = rows[at]
            value = coefficients[row]
            for k in range(ids.shape[1]):
                value *= counts[ids[row, k]]
            new[row] = value
            change[owner[row]] += value - values[row]
        better = False
        if take:
            after = _slack(spent, change, full, ratio)
            better = abs(after) < abs(slack)
            if strict and (after >= 0) != (slack >= 0):
                better = after >= 0
        else:
            gains[place] = 0.0
            for t in range(len(full)):
                gains[place] = max(gains[place], abs(change[t]))
        if better:
            for at in range(row_starts[i], row_starts[i + 1]):
                values[rows[at]] = new[rows[at]]
            for t in range(len(full)):
                spent[t] += change[t]
            slack, moved = after, True
        else:
            _move(i, before, counts, held, held_starts, sizes)
    return moved
