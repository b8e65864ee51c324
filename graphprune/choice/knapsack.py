"""knapsack: kept counts under a cost that is a staircase, such as latency.

1. Each group may stop only at a few counts, the ends of the steps.
2. Greedily, the move with the largest Δcost / Δloss over all groups is made. A move may span
   several steps of one group, so that plateaus are crossed (Shen et al., HALP, NeurIPS 2022).
3. The loss of a group is that of its loss curve, or the sum of the scores that go, divided by its
   size.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

from graphprune.core.groups import Counts
from graphprune.importance import Scores

Move = tuple[float, int, float]
"""What a move is worth (negative: the heap is ascending), its group, and the count after it."""

_TINY = 1e-12  # keeps a move without loss from dividing by zero


def knapsack(
    start: Counts,
    stops: Mapping[int, Counts],
    losses: Sequence[Scores],
    saved: Callable[[Counts, int, float], float],
    slack: Callable[[Counts], float],
    complete: Callable[[Counts], Counts],
) -> Counts:
    """Kept counts for a budget.

    Args:
        start: The counts to begin with.
        stops: For each group that may move, the counts at which it may stop.
        losses: For each group what is lost once 0, 1, 2, ... of its indices are gone.
        saved: The cost that a group saves by going to another count.
        slack: Negative while the budget is not met.
        complete: Sets the counts of groups that follow others.

    Returns:
        The first counts that meet the budget, or those from which no move saves anything.
    """

    def best(i: int) -> Move | None:
        """The move of a group that saves most per loss."""
        moves: list[Move] = []
        size, now = len(losses[i]) - 1, counts[i]
        for to in stops[i][stops[i] < now]:
            gain = saved(counts, i, to)
            loss = losses[i][int(size - to)] - losses[i][int(size - now)]
            if gain > 0:
                moves.append((-gain / (loss + _TINY), i, to))
        return min(moves, default=None)

    counts: Counts = start.copy()
    heap = [move for move in map(best, stops) if move is not None]
    heapq.heapify(heap)
    while heap and slack(counts) < 0:
        _, i, _ = heapq.heappop(heap)
        move = best(i)  # what its neighbours did meanwhile has changed what it saves
        if move is None:
            continue
        if heap and move[0] > heap[0][0]:
            heapq.heappush(heap, move)
            continue
        counts[i] = move[2]
        counts = complete(counts)
        following = best(i)
        if following is not None:
            heapq.heappush(heap, following)
    return counts
