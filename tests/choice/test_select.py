"""Budgets: several costs at once, limits, allocations, and the nearest that can be reached."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune import BudgetError, GraphPruneError
from graphprune.costs.registry import cost_of, known_costs

X = torch.randn(2, 3, 16, 16)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 96, 3, padding=1, stride=2), nn.BatchNorm2d(96), nn.ReLU(),
        nn.Conv2d(96, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def removed(plan: Any, of: str) -> float:
    deps = plan.work.deps
    polynomial = cost_of(deps, of)
    return 1 - polynomial(deps.counts(plan.work.selection.keep)) / polynomial(deps.sizes())


@pytest.mark.parametrize(
    "budget",
    [
        {"macs": 0.5, "params": 0.4},
        {"macs": 0.4, "params": 0.6},
        {"macs": 0.3, "params": 0.2, "memory": 0.4},
        {"channels": 0.5, "memory": 0.2},
        {"macs": 0.5},
    ],
    ids=str,
)
def test_several_costs_are_upper_limits_and_one_is_met(
    net: nn.Module, budget: dict[str, float]
) -> None:
    plan = graphprune.plan(net, budget=budget, example_inputs=X, compensate=False)
    beyond = {of: removed(plan, of) - ratio for of, ratio in budget.items()}
    assert min(beyond.values()) == pytest.approx(0, abs=0.01)
    assert min(beyond.values()) >= 0
    assert plan.of == min(beyond, key=lambda of: beyond[of])
    assert plan.report.achieved == pytest.approx(removed(plan, plan.of))
    plan.apply()


def test_a_budget_and_a_ratio_exclude_each_other(net: nn.Module) -> None:
    with pytest.raises(GraphPruneError, match="leave out ratio"):
        graphprune.plan(net, 0.5, budget={"macs": 0.5}, example_inputs=X, compensate=False)
    with pytest.raises(GraphPruneError, match="no cost 'watts'"):
        graphprune.plan(net, budget={"watts": 0.5}, example_inputs=X, compensate=False)
    with pytest.raises(GraphPruneError, match=r"budget\['macs'\] is the fraction to remove"):
        graphprune.plan(net, budget={"macs": 1.5}, example_inputs=X, compensate=False)


def test_limits_bound_what_each_group_keeps(net: nn.Module) -> None:
    limits = {"*": 0.4, "0": (48, 56), "6": (1, 0.2)}
    plan = graphprune.plan(net, 0.7, example_inputs=X, limits=limits, compensate=False)
    kept = {row.name: row.kept for row in plan.report.groups}
    assert 48 <= kept["0.weight[0]"] <= 56
    assert kept["3.weight[0]"] >= 0.4 * 96
    assert kept["6.weight[0]"] <= round(0.2 * 128)
    assert plan.report.achieved == pytest.approx(0.7, abs=0.01)


def test_limits_make_a_budget_unreachable(net: nn.Module) -> None:
    with pytest.raises(BudgetError, match="cannot be reached") as error:
        graphprune.plan(net, 0.9, example_inputs=X, limits={"*": 0.5}, compensate=False)
    assert error.value.closest == pytest.approx(0.74, abs=0.02)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"nowhere": 0.5}, "matches no layer"),
        ({"0": (50, 20)}, "at least 50 and at most 20"),
        ({"0": 1.5}, "a fraction is at most"),
        ({"0": "half"}, "no number of indices"),
    ],
)
def test_limits_that_are_none_are_named(net: nn.Module, limits: Any, message: str) -> None:
    with pytest.raises(GraphPruneError, match=message):
        graphprune.plan(net, 0.5, example_inputs=X, limits=limits, compensate=False)


@pytest.mark.parametrize("allocation", ["auto", "uniform", "global", "isomorphic", "erk"])
@pytest.mark.parametrize("of", ["params", "macs", "channels", "memory"])
def test_every_allocation_meets_every_cost(net: nn.Module, allocation: str, of: str) -> None:
    plan = graphprune.plan(net, 0.4, of, example_inputs=X, allocation=allocation, compensate=False)
    assert plan.report.achieved == pytest.approx(0.4, abs=0.01)


def test_erk_keeps_in_proportion_to_density() -> None:
    widths = [16, 64, 128, 256, 10]
    layers = [nn.Linear(a, b) for a, b in pairwise(widths)]
    plan = graphprune.plan(
        nn.Sequential(*layers), 0.8, allocation="erk", round_to=1, compensate=False
    )
    shares = np.array([row.kept / row.size for row in plan.report.groups])
    density = [(a + b) / (a * b) for a, b in pairwise(widths)]
    raw = np.array([(a + b) / 2 for a, b in pairwise(density)])
    assert (shares < 1).all()
    np.testing.assert_allclose(shares / raw, shares[1] / raw[1], rtol=0.1)


def test_isomorphic_ranks_within_groups_of_equal_topology() -> None:
    def branch(scale: float) -> nn.Sequential:
        made = nn.Sequential(nn.Linear(8, 16, bias=False), nn.ReLU(), nn.Linear(16, 8, bias=False))
        with torch.no_grad():
            for p in made.parameters():
                p.mul_(scale)
        return made

    torch.manual_seed(0)
    net = nn.Sequential(branch(1.0), branch(1e-3), nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 2))
    options = {"normalize": "none", "round_to": 1, "importance": "l2"}

    def kept(allocation: str) -> dict[str, int]:
        plan = graphprune.plan(net, 0.25, "channels", allocation=allocation, **options)
        return {row.name: row.kept for row in plan.report.groups}

    alike = kept("isomorphic")
    # The two branches compete with each other alone, and the second has nothing to say there.
    assert alike["0.0.weight[0]"] > 14 > 10 > alike["1.0.weight[0]"]
    assert alike["2.weight[0]"] == pytest.approx(48, abs=4)


@pytest.mark.parametrize("normalize", ["none", "mean", "lamp", "gaussian"])
def test_normalisations_let_groups_compete(net: nn.Module, normalize: str) -> None:
    plan = graphprune.plan(
        net, 0.4, example_inputs=X, allocation="global", normalize=normalize, compensate=False
    )
    assert plan.report.achieved == pytest.approx(0.4, abs=0.01)


def test_an_unknown_normalisation_is_named(net: nn.Module) -> None:
    with pytest.raises(GraphPruneError, match="no normalisation 'odd'"):
        graphprune.plan(
            net, 0.4, example_inputs=X, allocation="global", normalize="odd", compensate=False
        )


@pytest.mark.parametrize("of", [of for of in known_costs() if of != "latency"])
def test_incremental_costs_are_exact(net: nn.Module, of: str) -> None:
    deps = graphprune.analyze(net, X)
    polynomial = cost_of(deps, of)
    counts = np.array([group.size for group in deps.groups], dtype=np.float64) - 5
    for i in range(len(counts)):
        moved = counts.copy()
        moved[i] = 7
        expected = polynomial(moved) - polynomial(counts)
        assert polynomial.change(counts, i, 7) == pytest.approx(expected)


def test_wishes_are_given_up_where_the_rest_would_lose_too_much(net: nn.Module) -> None:
    from graphprune.choice.request import requested
    from graphprune.choice.select import select
    from graphprune.core.relations import Ties

    deps = graphprune.analyze(net, X)
    scores = [np.arange(group.size, dtype=float) for group in deps.groups]
    request = requested(0.6, "params", "l2", "auto", None)
    widest = max(deps.groups, key=lambda group: group.size)
    mild, harsh = {widest.id}, {group.id for group in deps.groups[:-1]}
    kept = select(deps, scores, request, [Ties(frozen=mild, wish=True)]).keep
    assert widest.axis not in kept
    kept = select(deps, scores, request, [Ties(frozen=harsh)]).keep
    assert len(kept[widest.axis]) < 32, "the code needs them"
    kept = select(deps, scores, request, [Ties(frozen=harsh, wish=True)]).keep
    assert len(kept[widest.axis]) > 32, "not all that goes is taken from one group"
