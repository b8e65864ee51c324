"""price: levels from loss curves, loss per unit of cost saved.

The sum of the losses is to be minimal under a budget. At the minimum, removing one more index costs
the same loss per unit saved in every group (Everett, Generalized Lagrange Multiplier Method, 1963).
So the level of an index is Δloss / Δcost, and all indices below one common level go. A loss curve
that is not convex is replaced by its lower convex hull, so that levels ascend. What an index saves
(its *price*) depends on what the other groups keep; prices and counts are therefore iterated.

Example: an index that loses 0.02 and saves 1000 parameters has the level 2e-5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numba
import numpy as np

from graphprune.choice.constants import FLAT_RISE, PRICE_ROUNDS
from graphprune.choice.descend import Ladder
from graphprune.core.groups import Counts
from graphprune.importance import Scores
from graphprune.importance.constants import NEEDED

_TINY = 1e-300  # in place of a price of zero, which would divide by zero


def settled(
    losses: Sequence[Scores],
    followers: Mapping[int, Sequence[int]],
    slopes_at: Callable[[Counts], Counts],
    lowest: Callable[[Ladder], Counts],
) -> Counts:
    """Counts at which one more index costs the same loss per unit saved in every group.

    Args:
        losses: As for `priced`.
        followers: Groups whose counts are in proportion to another's.
        slopes_at: For given counts, what one index of each group saves.
        lowest: For given levels, the counts at the highest common level that leaves the budget
            unmet.
    """
    counts: Counts = np.array([len(curve) for curve in losses], dtype=np.float64)
    prices = slopes_at(counts)
    for _ in range(PRICE_ROUNDS):
        found = lowest(Ladder(priced(*joined(losses, prices, followers))))
        if (found == counts).all():
            break
        counts = found
        prices = np.sqrt(prices * slopes_at(counts))  # halfway, lest they swing
    return counts


def priced(losses: Sequence[Scores], prices: Counts) -> list[Scores]:
    """Levels of all indices.

    Args:
        losses: For each group the loss once 1, 2, ... of its indices are gone, ascending. Indices
            whose loss is `NEEDED` or more go only when no others are left.
        prices: What one index of each group saves, at the counts considered.

    Returns:
        For each group one level for each index, ascending.
    """
    usual = [int(np.searchsorted(curve, NEEDED)) for curve in losses]
    out = []
    for curve, price, end in zip(losses, prices, usual, strict=True):
        rise = 1 + FLAT_RISE * np.arange(end) / len(curve)
        out.append(slopes(curve[:end]) * rise / max(price, _TINY))
    most = max((held[-1] for held in out if len(held)), default=0.0)
    return [
        np.append(held, (2 * most + 1) * curve[end:])
        for held, curve, end in zip(out, losses, usual, strict=True)
    ]


def joined(
    losses: Sequence[Scores], prices: Counts, followers: Mapping[int, Sequence[int]]
) -> tuple[list[Scores], Counts]:
    """Losses and prices of groups together with those that follow them.

    Args:
        losses: As for `priced`.
        prices: As for `priced`.
        followers: Groups whose counts are in proportion to another's.
    """
    losses, prices = list(losses), prices.copy()
    for width, held in reversed(list(followers.items())):
        size = len(losses[width])
        for i in held:
            gone = np.arange(1, size + 1) * len(losses[i]) // size
            losses[width] = losses[width] + np.append(0.0, losses[i])[gone]
            prices[width] += prices[i] * len(losses[i]) / size
    return losses, prices


@numba.njit(cache=True)
def slopes(curve: Any) -> Any:  # pragma: no cover
    """Slopes of the largest convex function below a curve that starts at zero.

    Args:
        curve: Its values behind the first.
    """
    n = len(curve)
    ends, found = np.empty(n, dtype=np.int64), np.empty(n)
    held = 0
    for i in range(n):
        start, slope = i, curve[i] - (curve[i - 1] if i else 0.0)
        while held and found[held - 1] >= slope:
            held -= 1
            start = ends[held - 1] + 1 if held else 0
            slope = (curve[i] - (curve[start - 1] if start else 0.0)) / (i - start + 1)
        ends[held], found[held] = i, slope
        held += 1
    out, at = np.empty(n), 0
    for i in range(n):
        if i > ends[at]:
            at += 1
        out[i] = found[at]
    return out
