"""Criteria that look at activations, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune import GraphPruneError
from graphprune.importance import Context
from graphprune.importance.score import score
from graphprune.statistics.batches import read_batches

X = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [3.0, -4.0], [0.0, 1.0]])


def net() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        made[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]))
        made[2].weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [0.0, 1.0, -3.0]]))
    return made


HIDDEN = np.array([[1, 2, 1], [0, 0.5, 1.5], [3, 0, 0], [0, 1, 1.0]])


def scores(importance: str, data: torch.Tensor = X) -> np.ndarray:
    model = net()
    deps = graphprune.analyze(model, torch.ones(2, 2))
    (found,) = score(deps, importance, Context(deps, model, batches=read_batches([data], model)))
    return found


def test_mean_of_what_the_consumers_read() -> None:
    np.testing.assert_allclose(scores("activation"), HIDDEN.mean(0))


def test_variance() -> None:
    np.testing.assert_allclose(scores("activation_variance"), HIDDEN.var(0), rtol=1e-6)


def test_variance_is_that_of_all_batches_together() -> None:
    model = net()
    deps = graphprune.analyze(model, torch.ones(2, 2))
    batches = read_batches([X[:3], X[3:]], model)
    (found,) = score(deps, "activation_variance", Context(deps, model, batches=batches))
    np.testing.assert_allclose(found, HIDDEN.var(0), rtol=1e-6)


def test_share_of_activations_that_are_not_zero() -> None:
    np.testing.assert_allclose(scores("apoz"), [0.5, 0.75, 0.75])


def test_wanda_weighs_by_the_norm_of_the_input() -> None:
    norms, hidden = X.square().sum(0).sqrt().numpy(), np.sqrt((HIDDEN**2).sum(0))
    rows = np.abs(net()[0].weight.detach().numpy()) @ norms
    columns = np.abs(net()[2].weight.detach().numpy()).sum(0) * hidden
    np.testing.assert_allclose(scores("wanda"), rows + columns, rtol=1e-6)


def test_wanda_gives_each_group_of_a_convolution_its_own_inputs() -> None:
    layer = nn.Conv2d(6, 6, 1, groups=3, bias=False)  # of two inputs and two outputs each
    model = nn.Sequential(layer, nn.Conv2d(6, 1, 1, bias=False))
    norms = torch.arange(1.0, 7.0)
    x = norms.view(1, 6, 1, 1).expand(2, 6, 1, 1) / 2**0.5
    weight, last = (model[at].weight.detach()[..., 0, 0] for at in (0, 1))
    expected = weight.abs() * torch.tensor([[1, 2]] * 2 + [[3, 4]] * 2 + [[5, 6]] * 2)
    hidden = layer(x).detach()[..., 0, 0].square().sum(0).sqrt()
    columns = (last.abs() * hidden)[0]
    deps = graphprune.analyze(model, x)
    (found,) = score(deps, "wanda", Context(deps, model, batches=read_batches([x], model)))
    # what goes are places within groups: one index of each of the three
    rows = (expected.sum(1) + columns).view(3, 2)
    np.testing.assert_allclose(np.sort(found), np.sort(rows.sum(0)), rtol=1e-5)


def test_rank_of_feature_maps() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 0.0]).view(2, 1, 1, 1))
    maps = torch.stack([torch.eye(4), torch.ones(4, 4)])[:, None]  # of rank 4 and 1
    deps = graphprune.analyze(model, maps)
    (found,) = score(deps, "hrank", Context(deps, model, batches=read_batches([maps], model)))
    assert found.tolist() == [2.5, 0.0]


@pytest.mark.parametrize("importance", ["activation", "apoz", "wanda", "hrank"])
def test_data_is_asked_for(importance: str) -> None:
    with pytest.raises(GraphPruneError, match=f"importance='{importance}' needs data"):
        graphprune.plan(net(), 0.3, importance=importance, compensate=False)
