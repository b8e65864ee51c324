"""nearest: counts of two groups at once, where single steps come no nearer to the budget.

Every count of one group is tried with the counts of another between which the budget lies, until no
pair comes nearer. Of those that are near enough, the ones that change least are taken.

Example:
    Two layers of 64 channels keep multiples of three. One step takes 4 % of the parameters, so that
    single steps end up to 2 % off; 42 and 54 channels come within 0.2 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations

import numpy as np

from graphprune.choice.constants import NEAREST_PAIRS, NEAREST_ROUNDS
from graphprune.choice.descend import Moves
from graphprune.core.groups import Counts
from graphprune.costs.budget import Budget


def nearest(
    counts: Counts,
    moves: Moves,
    budget: Budget,
    complete: Callable[[Counts], Counts],
    met: Callable[[float], bool],
) -> Counts:
    """Counts whose costs are nearer to the budget than any step brings them.

    Args:
        counts: Where to start.
        moves: Which counts there are.
        budget: The costs, which grow with every count, and what is asked of them.
        complete: Sets the counts of groups that follow others.
        met: Whether what was removed is near enough to what was asked.
    """
    for _ in range(NEAREST_ROUNDS):
        slack = budget.slack(counts)
        if met(slack):
            break
        best = counts
        for found in _pairs(counts, moves, budget, complete):
            one, other = budget.slack(found), budget.slack(best)
            if met(one) and met(other):
                closer = _moved(found, counts, moves) < _moved(best, counts, moves)
            else:
                closer = not met(other) and budget.better(one, other)
            best = found if closer else best
        if (best == counts).all():
            break
        counts = best
    return counts


def _moved(to: Counts, counts: Counts, moves: Moves) -> float:
    return float((np.abs(to - counts) / moves.sizes).sum())


def _pairs(
    counts: Counts, moves: Moves, budget: Budget, complete: Callable[[Counts], Counts]
) -> Iterator[Counts]:
    """All counts of one group, each with the two of another between which the budget lies."""
    stops = {i: _stops(moves, i) for i in moves.free}
    able = sorted((i for i in stops if len(stops[i]) > 1), key=lambda i: len(stops[i]))
    pairs = list(permutations(able, 2)) or [(i, i) for i in able]
    for i, j in pairs[:NEAREST_PAIRS]:
        for count in stops[i] if i != j else counts[[i]]:

            def with_both(other: float, i: int = i, j: int = j, count: float = count) -> Counts:
                trial = counts.copy()
                trial[i], trial[j] = count, other
                return complete(trial)

            at = _last(stops[j], lambda other: budget.slack(with_both(other)) >= 0)
            yield from (with_both(other) for other in stops[j][max(at, 0) : at + 2])


def _stops(moves: Moves, i: int) -> Counts:
    """The counts that a group may have, ascending."""
    step, low, high = moves.steps[i], moves.low[i], moves.high[i]
    found = np.arange(np.ceil(low / step) * step, high + 1, step)
    return np.append(found, high) if high == moves.sizes[i] and high not in found else found


def _last(stops: Sequence[float] | Counts, enough: Callable[[float], bool]) -> int:
    """The place of the last stop that removes enough; -1 where none does."""
    low, high = -1, len(stops) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if enough(stops[middle]) else (low, middle - 1)
    return low
