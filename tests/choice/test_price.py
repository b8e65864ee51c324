"""Prices: what is lost counts for what it saves."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.choice.price import joined, priced, slopes
from graphprune.choice.request import Request
from graphprune.choice.select import select
from graphprune.costs.registry import cost_of
from graphprune.importance.constants import NEEDED


def test_slopes_are_those_of_the_convex_hull() -> None:
    rng = np.random.default_rng(0)
    curve = np.cumsum(rng.exponential(size=40))
    whole = np.append(0.0, curve)
    hull = np.append(0.0, np.cumsum(slopes(curve)))
    assert (hull <= whole + 1e-9).all()
    assert hull[-1] == pytest.approx(whole[-1])
    assert (np.diff(slopes(curve)) >= -1e-12).all()
    corners = [i for i in range(41) if whole[i] == pytest.approx(hull[i])]
    for start, stop in pairwise(corners):
        expected = (whole[stop] - whole[start]) / (stop - start)
        assert slopes(curve)[start:stop] == pytest.approx(expected)


def test_of_equal_losses_the_one_that_saves_more_goes_first() -> None:
    curve = np.linspace(0.01, 1.0, 20) ** 2
    cheap, dear = priced([curve, curve], np.array([1.0, 10.0]))
    assert (dear < cheap).all()


def test_what_is_needed_goes_last() -> None:
    free, needed = priced(
        [np.linspace(0.1, 1.0, 8), np.linspace(0.1, 1.0, 8) + NEEDED], np.array([1e-6, 1.0])
    )
    assert needed.min() > free.max()
    assert (np.diff(needed) > 0).all()


def test_followers_count_with_the_group_that_they_follow() -> None:
    curve = np.array([1.0, 2.0, 3.0, 4.0])
    losses, prices = joined([curve, 10 * curve[:2]], np.array([1.0, 5.0]), {0: (1,)})
    assert losses[0].tolist() == [1.0, 12.0, 13.0, 24.0]
    assert prices[0] == pytest.approx(1.0 + 5.0 / 2)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_hardly_any_choice_loses_less(ratio: float) -> None:
    torch.manual_seed(0)
    sizes = (12, 16, 10)
    model = nn.Sequential(nn.Linear(4, 12), nn.Linear(12, 16), nn.Linear(16, 10), nn.Linear(10, 99))
    deps = graphprune.analyze(model, torch.randn(2, 4))
    rng = np.random.default_rng(1)
    curves = [np.sort(rng.exponential(size=n)).cumsum() / n / 10 for n in sizes]
    plan = select(deps, curves, Request(ratio, "params", allocation="loss", round_to=1))
    gone = [group.size - len(plan.keep.get(group.axis, range(group.size))) for group in deps.groups]
    spent = cost_of(deps, "params")
    full = spent(np.array(sizes, dtype=np.float64))

    def lost(gone: tuple[int, ...]) -> float:
        return sum(float(np.append(0.0, c)[g]) for c, g in zip(curves, gone, strict=True))

    choices = product(*(range(n) for n in sizes))
    meets = (g for g in choices if 1 - spent(np.subtract(sizes, g)) / full >= plan.achieved)
    assert lost(tuple(gone)) <= 1.5 * min(map(lost, meets))


@pytest.mark.parametrize("of", ["params", "macs", "channels"])
def test_slopes_of_costs_are_exact(of: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 3))
    polynomial = cost_of(graphprune.analyze(model, torch.randn(2, 3, 12, 12)), of)
    counts = np.array([7.0, 5.0])
    found = polynomial.slopes(counts)
    assert found == pytest.approx([polynomial.change(counts, i, counts[i] + 1) for i in range(2)])
