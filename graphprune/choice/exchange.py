"""exchange: counts that lose less at the same costs.

One group takes a step back, for another one's step forward, as long as less is lost by it: pairwise
interchange, as in knapsacks (Martello & Toth, Knapsack Problems, 1990).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphprune.choice.descend import Moves, follow
from graphprune.core.groups import Counts
from graphprune.importance import Scores

_ROUNDS = 100  # at most
_TRIED = 50  # pairs of steps, of those that promise most


def exchange(
    counts: Counts, losses: Sequence[Scores], moves: Moves, met: Callable[[Counts], bool]
) -> Counts:
    """Improve on a choice that meets the budget.

    Args:
        counts: Where to start.
        losses: For each group, with those that follow it, what is lost once 1, 2, ... of its
            indices are gone.
        moves: Which steps may be taken.
        met: Whether counts keep to the budget.
    """
    curves = [np.append(0.0, curve)[::-1] for curve in losses]  # by how many stay
    for _ in range(_ROUNDS):
        found = _better(counts, curves, moves, met)
        if found is None:
            break
        counts = found
    return counts


def _better(
    counts: Counts, curves: Sequence[Scores], moves: Moves, met: Callable[[Counts], bool]
) -> Counts | None:
    """The counts after the exchange that gains most, of those that keep to the budget."""

    def lost(to: Counts, which: Sequence[int]) -> Scores:
        return np.array([curves[i][int(to[i])] for i in which])

    (up, more), (down, fewer) = (moves.possible(counts, sign) for sign in (1.0, -1.0))
    gained = lost(counts, more) - lost(up, more)
    given = lost(down, fewer) - lost(counts, fewer)
    net = np.subtract.outer(gained, given).ravel()
    best = np.argpartition(-net, _TRIED)[:_TRIED] if len(net) > _TRIED else np.arange(len(net))
    for at in best[np.argsort(-net[best], kind="stable")]:
        i, j = more[at // len(fewer)], fewer[at % len(fewer)]
        if net[at] <= 0:
            return None
        trial: Counts = counts.copy()
        trial[i], trial[j] = up[i], down[j]
        if i != j and met(follow(trial, moves.sizes, moves.followers)):
            return trial
    return None
