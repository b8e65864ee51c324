"""Criteria that look at weights alone, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune import GraphPruneError
from graphprune.importance import Context
from graphprune.importance.score import score


def two_layers(first: list[list[float]], second: list[list[float]]) -> nn.Module:
    net = nn.Sequential(
        nn.Linear(len(first[0]), len(first), bias=False),
        nn.ReLU(),
        nn.Linear(len(second[0]), len(second), bias=False),
    )
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(first))
        net[2].weight.copy_(torch.tensor(second))
    return net


NET = two_layers([[3.0, -4.0], [1.0, 0.0], [0.0, 2.0]], [[1.0, 2.0, -2.0], [0.0, -2.0, 1.0]])


def scores(net: nn.Module, importance: str, **options: str) -> np.ndarray:
    (found,) = score(graphprune.analyze(net), importance, **options)
    return found


def test_l1_is_the_sum_over_rows_and_columns() -> None:
    assert scores(NET, "l1").tolist() == [7 + 1, 1 + 4, 2 + 3]


def test_l2_is_the_sum_of_squares() -> None:
    assert scores(NET, "l2").tolist() == [25 + 1, 1 + 8, 4 + 5]


def test_group_norm_is_its_root() -> None:
    np.testing.assert_allclose(scores(NET, "group_norm"), np.sqrt([26, 9, 9]))


def test_fpgm_is_the_sum_of_distances_between_all_that_indices_own() -> None:
    owned = np.array([[3, -4, 1, 0], [1, 0, 2, -2], [0, 2, -2, 1]], dtype=float)
    apart = np.linalg.norm(owned[:, None] - owned[None], axis=-1)
    np.testing.assert_allclose(scores(NET, "fpgm"), apart.sum(1), rtol=1e-5)


def test_fpgm_gathers_what_products_of_axes_own() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Flatten(), nn.Linear(12, 2, bias=False))
    deps = graphprune.analyze(net, torch.randn(2, 1, 2, 2))
    (found,) = score(deps, "fpgm")
    owned = torch.cat(
        [net[0].weight.flatten(1), net[2].weight.view(2, 3, 4).movedim(1, 0).flatten(1)], 1
    )
    np.testing.assert_allclose(found, torch.cdist(owned, owned).sum(1).detach(), rtol=1e-4)


def test_bn_scale_is_the_scale_alone() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 1, 1))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([0.5, -2.0, 1.0]))
    (found,) = score(graphprune.analyze(net, torch.randn(2, 1, 4, 4)), "bn_scale")
    assert found.tolist() == [0.5, 2.0, 1.0]
    with pytest.raises(GraphPruneError, match="has none: use 'l2'"):
        scores(NET, "bn_scale")


def test_random_follows_the_seed() -> None:
    deps = graphprune.analyze(NET)
    draws = [score(deps, "random", Context(deps, seed=seed))[0].tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum", [8, 5, 5]), ("mean", [4, 2.5, 2.5]), ("max", [7, 4, 3]), ("first", [7, 1, 2])],
)
def test_reductions_of_what_the_members_contribute(reduction: str, expected: list[float]) -> None:
    assert scores(NET, "l1", reduction=reduction).tolist() == expected


def test_an_unknown_reduction_is_named() -> None:
    with pytest.raises(GraphPruneError, match="no reduction 'median'"):
        scores(NET, "l1", reduction="median")


def test_a_criterion_of_ones_own_may_look_at_the_context() -> None:
    def by_size(context: Context) -> list[list[np.ndarray]]:
        return [[np.arange(group.size, dtype=float)] for group in context.deps.groups]

    plan = graphprune.plan(
        two_layers([[1.0]] * 8, [[1.0] * 8]), 0.5, importance=by_size, compensate=False
    )
    assert plan.kept["0.weight"][0].tolist() == [4, 5, 6, 7]


def test_mu_2sigma_decides_how_much_goes() -> None:
    net = nn.Sequential(nn.Linear(2, 20, bias=False), nn.ReLU(), nn.Linear(20, 2, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[2].weight.fill_(1.0)
        net[0].weight[7] = 0.01
        net[2].weight[:, 7] = 0.01
    plan = graphprune.plan(net, importance="mu-2sigma")
    assert plan.kept["0.weight"][0].tolist() == [i for i in range(20) if i != 7]
    assert plan.asked == plan.report.achieved == pytest.approx(0.05)
    assert "5.0% of params removed" in str(plan.report)
    with pytest.raises(GraphPruneError, match="leave out ratio"):
        graphprune.plan(net, 0.5, importance="mu-2sigma", compensate=False)
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[2].weight.fill_(1.0)
    with pytest.raises(graphprune.BudgetError, match="minus two standard deviations"):
        graphprune.plan(net, importance="mu-2sigma")
