"""threshold: the scores decide how much is removed; there is no budget.

Indices whose score is below mean - 2 x standard deviation of their group are removed: the outliers
at the lower end. The ratio that this reaches is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import numpy as np

from graphprune.choice.allocate import bounds, fixed, rounded
from graphprune.choice.constants import THRESHOLD_DEVIATIONS
from graphprune.choice.request import Request
from graphprune.choice.select import Selection
from graphprune.core.errors import BudgetError
from graphprune.core.groups import Dependencies
from graphprune.core.relations import Ties
from graphprune.costs.registry import cost_of
from graphprune.importance import Scores


def threshold(
    deps: Dependencies, scores: Sequence[Scores], request: Request, ties: Sequence[Ties] = ()
) -> Selection:
    """Keep the indices that are not below the threshold of their group.

    Args:
        deps: The analysis.
        scores: One norm for each index of each group.
        request: Of it, `ratios`, `limits` and the cost are used.
        ties: Groups that are frozen, and groups that follow others; neither loses any index.

    Raises:
        BudgetError: No score is below its threshold.
    """
    least, most = bounds(deps, request)
    counted = fixed(deps, request, least, most)
    step = request.step()
    if step is not None:
        for i, count in counted.items():
            least[i] = most[i] = count
        least, most = rounded(deps, step, counted, least, most)
    bound = {i for first in ties[:1] for i in (*first.frozen, *first.steps)}
    bound = bound.union(*(held for first in ties[:1] for held in first.followers.values()))
    sizes = np.array([group.size for group in deps.groups], dtype=np.float64)
    counts = sizes.copy()
    keep = {}
    for group, found in zip(deps.groups, scores, strict=True):
        gone = int((found < found.mean() - THRESHOLD_DEVIATIONS * found.std()).sum())
        if group.id in counted:
            gone = group.size - int(counted[group.id])
        elif group.id in bound or group.grain > 1:
            gone = 0
        stay = group.size - gone
        stay = stay if step is None else min(ceil(stay / step) * step, group.size)
        count = int(np.clip(stay, least[group.id], most[group.id]))
        if count < group.size:
            counts[group.id] = count
            keep[group.axis] = np.sort(np.argsort(found, kind="stable")[group.size - count :])
    if not keep:
        raise BudgetError(
            "no index scores below the mean of its group minus two standard deviations: nothing "
            "goes; ask for a ratio instead",
            closest=0.0,
        )
    spent = cost_of(deps, request.of)
    achieved = 1 - spent(counts) / spent(sizes)
    return Selection(keep, achieved, achieved, 1, request.of)
