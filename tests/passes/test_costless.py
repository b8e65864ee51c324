"""What costs nothing goes first in `shrink`, whatever the criterion, and nothing is made up for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from tests.passes.test_fold_norms import gap, trained

IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def slimmed() -> nn.Module:
    """A network some of whose norms have scales of zero, unevenly."""
    widths = (3, 16, 24, 20)
    layers: list[nn.Module] = []
    for inside, outside in pairwise(widths):
        layers += [nn.Conv2d(inside, outside, 3, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
    net = trained(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 5)))
    with torch.no_grad():
        for layer, dead in ((4, (2, 3, 9)), (7, range(1, 14))):
            net[layer].weight[list(dead)] = 0.0
    return net


OPTIONS: list[dict[str, Any]] = [
    {"importance": "l2"},
    {"importance": "random", "compensate": False},
    {"importance": "l1", "allocation": "global"},
    {"data": IMAGES, "effort": "fast"},
]


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("options", OPTIONS)
def test_what_costs_nothing_goes_first(options: dict[str, Any], share: float) -> None:
    net = slimmed()
    dense = sum(p.numel() for p in net.parameters())
    plan = graphprune.plan(
        net, passes=[p for p in graphprune.COMPACT if p.name in ("constants", "couple", "dead")],
        example_inputs=IMAGES[:2],
    )  # fmt: skip
    assert plan.report is not None
    ratio = share * plan.report.achieved
    assert plan.report.achieved > 0.2
    given = {"example_inputs": IMAGES[:2], **options}
    small = graphprune.shrink(net, ratio, **given)
    left = sum(p.numel() for p in small.parameters())
    assert abs(1 - left / dense - ratio) < 0.01
    assert gap(net(IMAGES), small(IMAGES)) < 1e-5


def test_more_than_that_goes_on_from_there() -> None:
    net = slimmed()
    plan = graphprune.plan(net, 0.6, example_inputs=IMAGES[:2], importance="l2", compensate=False)
    kept = [group.kept for group in plan.report.groups]
    assert kept[1] <= 21 and kept[2] <= 7


def test_equal_shares_stay_equal_where_they_are_asked_for() -> None:
    net = slimmed()
    plan = graphprune.plan(
        net, 0.3, example_inputs=IMAGES[:2], importance="l2", allocation="uniform", round_to=1,
        compensate=False,
    )  # fmt: skip
    shares = [group.kept / group.size for group in plan.report.groups]
    assert max(shares) - min(shares) < 0.1
