"""Loss curves: comparable levels, and what they leave alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.choice.request import Request
from graphprune.choice.select import select
from graphprune.compensation.curves import loss_curves
from graphprune.compensation.systems import Systems
from graphprune.importance.constants import NEEDED
from graphprune.statistics.samples import split
from tests.blocks import BLOCKS
from tests.importance.test_stored import two_products


def _levels(model: nn.Module, x: torch.Tensor) -> tuple[graphprune.Dependencies, list[np.ndarray]]:
    deps = graphprune.analyze(model, x[:2])
    found = loss_curves(deps, split(deps, [x], "test")).levels
    assert all(curve is not None for curve in found)
    return deps, [curve for curve in found if curve is not None]


def test_copies_and_dead_units_go_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4))
    with torch.no_grad():
        model[0].weight[3] = model[0].weight[7]
        model[0].bias[3] = model[0].bias[7]
        model[2].weight[:, 5] = 0
    _, (curve,) = _levels(model, torch.randn(200, 8))
    first = set(np.argsort(curve)[:2].tolist())
    assert first in ({3, 5}, {7, 5})
    steps = np.diff(np.sort(curve), prepend=0)
    assert steps[1] < 0.2 * steps[2]


def test_curves_end_where_nearly_nothing_is_left() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 4))
    deps, (curve,) = _levels(model, torch.randn(200, 8))
    assert (curve >= NEEDED).sum() == 2
    assert (curve < NEEDED).sum() == 18
    request = Request(0.93, "channels", allocation="loss", round_to=1)
    kept = select(deps, [curve], request).keep
    assert [len(indices) for indices in kept.values()] == [1], "asked for more, more goes"


def test_products_of_two_computed_values_are_left_alone() -> None:
    torch.manual_seed(0)
    model = BLOCKS["attention"][0]().eval()
    deps, curves = _levels(model, torch.randn(32, 6, 10))
    by_name = {group.name: curve for group, curve in zip(deps.groups, curves, strict=True)}
    sizes = {group.name: group.size for group in deps.groups}
    inner = [name for name, size in sizes.items() if size == 8 and (by_name[name] >= NEEDED).all()]
    assert inner, "head_dim: nothing can make up for a term of q k^T"
    assert any((curve < NEEDED).any() for curve in by_name.values())


def test_few_samples_do_not_make_channels_look_free() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 5))
    _, (few,) = _levels(model, torch.randn(40, 64))
    _, (many,) = _levels(model, torch.randn(8000, 64))
    at = len(few) // 2
    assert np.sort(few)[at] > 0.3 * np.sort(many)[at]


def test_layers_that_read_one_value_share_its_covariance() -> None:
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 12), nn.Linear(12, 4), nn.Linear(12, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = torch.relu(self.a(x))
            return self.b(x), self.c(x)

    model, x = Twice(), torch.randn(300, 8)
    _, (curve,) = _levels(model, x)
    apart = Systems.add
    keys = iter(range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Systems, "add", lambda self, key, *rest: apart(self, next(keys), *rest))
        _, (separate,) = _levels(model, x)
    np.testing.assert_allclose(curve, separate, rtol=1e-9)


def test_where_rows_are_few_the_first_channels_still_cost_least() -> None:
    """Of four samples no channel follows from the others; a straight curve would strip a group."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 2048), nn.ReLU(), nn.Linear(2048, 4))
    x = torch.randn(4, 16)
    deps = graphprune.analyze(model, x[:2])
    (curve,) = loss_curves(deps, split(deps, [x], "test")).levels
    assert curve is not None
    lost = np.sort(curve)
    assert lost[1023] < 0.2 * lost[1760]


def test_weights_of_integers_have_the_curves_of_their_numbers() -> None:
    """What a graph computes from weights alone is no term of q kᵀ: the refit makes up for it."""
    x, found = torch.randn(64, 8), []
    for quantized in (True, False):
        deps = graphprune.analyze(two_products(quantized))
        found += loss_curves(deps, split(deps, [x], "test")).levels
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-6)
