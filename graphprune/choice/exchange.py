"""exchange: less loss at the same cost, by pairwise interchange.

One group keeps a step more and another one a step less, as long as the sum of the losses falls and
the budget is still met (Martello & Toth, Knapsack Problems, 1990). Example: group a loses 0.2 less
with 8 channels more, group b loses 0.1 more with 8 channels less: a gain of 0.1.

Before that, groups that were opened only to come nearer to a budget that is met without them are
closed again (`closed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphprune.choice.constants import EXCHANGE_PAIRS, EXCHANGE_ROUNDS
from graphprune.choice.descend import Moves, follow
from graphprune.core.groups import Counts
from graphprune.importance import Scores


def closed(
    near: Counts,
    counts: Counts,
    sizes: Counts,
    losses: Sequence[Scores],
    complete: Callable[[Counts], Counts],
    met: Callable[[Counts], bool],
) -> Counts:
    """Groups that only the last steps opened, whole again where the budget is met without.

    Args:
        near: The counts before the last steps, which look at costs alone.
        counts: The counts after them.
        sizes: Those of whole groups.
        losses: For each group what is lost once 0, 1, 2, ... of its indices are gone.
        complete: Sets the counts of groups that follow others.
        met: Whether counts keep to the budget.
    """
    opened = np.flatnonzero((near == sizes) & (counts < sizes))
    lost = {int(i): float(losses[int(i)][int(sizes[i] - counts[i])]) for i in opened}
    for i in sorted(lost, key=lambda i: -lost[i]):
        trial: Counts = counts.copy()
        trial[i] = sizes[i]
        trial = complete(trial)
        if met(trial):
            counts = trial
    return counts


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
    for _ in range(EXCHANGE_ROUNDS):
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
    best = np.arange(len(net))
    if len(net) > EXCHANGE_PAIRS:
        best = np.argpartition(-net, EXCHANGE_PAIRS)[:EXCHANGE_PAIRS]
    for at in best[np.argsort(-net[best], kind="stable")]:
        i, j = more[at // len(fewer)], fewer[at % len(fewer)]
        if net[at] <= 0:
            return None
        trial: Counts = counts.copy()
        trial[i], trial[j] = up[i], down[j]
        if i != j and met(follow(trial, moves.sizes, moves.followers)):
            return trial
    return None
