"""spread: how many numbers of each layer become zero, so that all together are exactly as many.

1. `uniform`: the same share of each.
2. `global`: the least of all layers go.
3. `lamp`: the same, each number's square as a share of those that are not less in its layer (Lee et
   al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021).
4. `erk`: what stays of a layer is proportional to (Σ n) / (Π n) over the dimensions of its weight
   (Mocanu et al., 2018; Evci et al., RigL, 2020).
5. `loss`: one more zero costs the same in every layer, by their loss curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt
import torch

from graphprune.choice.price import slopes
from graphprune.core.errors import BudgetError

SPREADS = ("auto", "uniform", "global", "lamp", "erk", "loss")
"""How zeros are spread over the layers; `"auto"` is `"loss"` for the criterion `"obs"`,
`"uniform"` for `"wanda"`, and `"lamp"` for what looks at weights alone."""

STEPS = 64
"""Steps of a loss curve."""

Counts = npt.NDArray[np.int64]


def uniform(sizes: Counts, total: int) -> Counts:
    """The same share of each layer.

    Args:
        sizes: Units of each layer.
        total: Units that go.
    """
    return _whole(np.float64(total) / max(int(sizes.sum()), 1) * sizes, sizes, total)


def least(scores: Sequence[torch.Tensor], total: int) -> Counts:
    """Of all layers together those of the least scores; one unit stays in each.

    Args:
        scores: One for each unit of each layer.
        total: Units that go.
    """
    sizes = np.array([held.numel() for held in scores])
    each = torch.cat([held.flatten().float().cpu() for held in scores])
    if not 0 < total < len(each):
        return uniform(sizes, total)
    edge = each.kthvalue(total).values
    below = np.array([int((held.float().cpu() < edge).sum()) for held in scores], np.float64)
    equal = np.array([int((held.float().cpu() == edge).sum()) for held in scores], np.float64)
    share = (total - below.sum()) / max(equal.sum(), 1)
    return _whole(below + equal * share, sizes, total)


def lamp(scores: torch.Tensor) -> torch.Tensor:
    """Each score as a share of those in its layer that are not less."""
    flat = scores.flatten().double()
    order = flat.argsort(stable=True)
    above = flat[order].flip(0).cumsum(0).flip(0).clamp_min(1e-300)
    return torch.empty_like(flat).scatter_(0, order, flat[order] / above).view_as(scores)


def erk(shapes: Sequence[tuple[int, ...]], sizes: Counts, total: int) -> Counts:
    """Small layers keep more than large ones.

    Args:
        shapes: Of the layers' weights.
        sizes: Units of each layer.
        total: Units that go.
    """
    density = np.array([sum(shape) / prod(shape) for shape in shapes])
    left = float(sizes.sum() - total)
    full = np.zeros(len(sizes), bool)
    kept = np.zeros(len(sizes))
    while True:  # what would keep more than it has keeps all, and the others share the rest
        rest = left - sizes[full].sum()
        scale = rest / max(float((density * sizes)[~full].sum()), 1e-30)
        kept = np.where(full, 1.0, density * scale)
        more = kept > 1
        if not more.any():
            return _whole(sizes * (1 - kept), sizes, total)
        full |= more


def priced(curves: Sequence[npt.NDArray[np.float64]], sizes: Counts, total: int) -> Counts:
    """Counts at which one more zero costs equally much in every layer.

    Args:
        curves: What each layer loses once 1, 2, ... of `STEPS` equal parts of it are zero.
        sizes: Units of each layer.
        total: Units that go.
    """
    steps = np.repeat(sizes / STEPS, STEPS)
    level = np.concatenate([
        slopes(curve) / max(size / STEPS, 1e-30) for curve, size in zip(curves, sizes, strict=True)
    ])  # fmt: skip
    order = np.argsort(level, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(steps[order])[:-1]])
    taken = np.zeros(len(level))
    taken[order] = np.clip(total - before, 0, steps[order])
    return _whole(taken.reshape(len(sizes), STEPS).sum(1), sizes, total)


def _whole(wanted: npt.NDArray[np.float64], sizes: Counts, total: int) -> Counts:
    """Whole numbers near those wanted, of that sum; one unit stays in each layer.

    Raises:
        BudgetError: So many cannot go.
    """
    most = np.maximum(sizes - 1, 0)
    if total > most.sum():
        closest = float(most.sum() / max(sizes.sum(), 1))
        raise BudgetError(
            f"at most {closest:.1%} can become zero: a unit of each layer stays", closest
        )
    out = np.minimum(np.floor(wanted + 1e-9).astype(np.int64), most)
    while (missing := total - int(out.sum())) > 0:
        room = np.flatnonzero(out < most)
        order = room[np.argsort(-(wanted - out)[room], kind="stable")]
        each = max(missing // len(order), 1)
        for at in order:
            more = min(each, int(most[at] - out[at]), total - int(out.sum()))
            out[at] += more
            if out.sum() == total:
                break
    while (extra := int(out.sum()) - total) > 0:
        at = int(np.argmax(out - wanted))
        out[at] -= min(extra, max(int(np.ceil(out[at] - wanted[at])), 1))
    return out
