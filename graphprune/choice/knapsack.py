"""knapsack: counts for a cost that is a staircase, at the steps where it falls.

1. Every group may stop at a few counts only, the ends of steps.
2. Again and again the move that saves the most for what it loses is made, over all groups and
   over several steps of one at once, so that plateaus are crossed (Shen et al., HALP, 2022).
3. What a group loses is the mean of the levels of the indices that go, or what its loss curve
   says.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

from graphprune.core.groups import Counts
from graphprune.importance import Scores

Move = tuple[float, int, float]


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
        saved: What a group's move to another count saves.
        slack: Negative while the budget is not met.
        complete: Lets the groups that follow others take their counts.

    Returns:
        The first counts that meet the budget, or those where nothing saves any more.
    """

    def best(i: int) -> Move | None:
        """The move of a group that saves the most for what it loses."""
        moves: list[Move] = []
        size, now = len(losses[i]) - 1, counts[i]
        for to in stops[i][stops[i] < now]:
            gain = saved(counts, i, to)
            loss = losses[i][int(size - to)] - losses[i][int(size - now)]
            if gain > 0:
                moves.append((-gain / (loss + 1e-12), i, to))
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
