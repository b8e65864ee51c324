"""What the caller asks for is done to the letter, or refused by name."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

import graphprune
from graphprune import BudgetError, OptionError
from graphprune.costs import Polynomial
from graphprune.costs import registry as costs
from tests.frontends.onnx.exports import graph, normal

OPTIONS: dict[str, Any] = {"compensate": False, "verify": False}


def dense(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    pairs = pairwise(widths)
    layers = [part for a, b in pairs for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def kept(plan: graphprune.Plan[Any]) -> dict[str, int]:
    return {edit.name: edit.size if edit.keep is None else len(edit.keep) for edit in plan.groups}


@pytest.mark.parametrize("ratio", [0.0, 0.1])
def test_ratios_beyond_the_budget_are_an_error_with_what_can_be_reached(ratio: float) -> None:
    net = dense(16, 64, 64, 64, 4)
    with pytest.raises(BudgetError, match=r"ratios= and limits= take from 2\.weight") as error:
        graphprune.plan(net, ratio, ratios={"2": 0.5}, **OPTIONS)
    closest = error.value.closest
    assert closest is not None
    plan = graphprune.plan(net, closest, ratios={"2": 0.5}, **OPTIONS)
    assert list(kept(plan).values()) == [64, 32, 64]


def test_ratios_alone_touch_no_other_layer() -> None:
    net = dense(16, 64, 64, 64, 4)
    for ratios in ({"2": 0.5}, {net[2]: 0.5}, {"2": 0.5, "0": 0.0}):
        plan = graphprune.plan(net, ratios=ratios, **OPTIONS)
        assert list(kept(plan).values()) == [64, 32, 64]
    both = graphprune.plan(net, ratios={nn.Linear: 0.25}, **OPTIONS)
    assert list(kept(both).values()) == [48, 48, 48]


@pytest.mark.parametrize("step", [8, 16, 32, 48])
@pytest.mark.parametrize("allocation", ["uniform", "global", "erk"])
def test_every_kept_width_is_a_multiple_or_the_group_is_whole(step: int, allocation: str) -> None:
    net = dense(16, 32, 50, 96, 20, 4)
    plan = graphprune.plan(net, 0.4, round_to=step, allocation=allocation, **OPTIONS)
    for edit, count in zip(plan.groups, kept(plan).values(), strict=True):
        assert count % step == 0 or count == edit.size
    assert plan.report is not None
    near = abs(plan.report.achieved - 0.4) <= 0.01
    assert near or any("round_to" in text for text in plan.report.warnings)


def test_heads_that_are_tied_keep_multiples_too() -> None:
    layer = nn.TransformerEncoderLayer(48, 6, 96, batch_first=True)
    x = torch.randn(2, 5, 48)
    plan = graphprune.plan(layer, 0.3, round_to=4, example_inputs=x, **OPTIONS)
    for edit, count in zip(plan.groups, kept(plan).values(), strict=True):
        assert count % 4 == 0 or count == edit.size


def test_limits_and_ratios_follow_the_step_or_are_refused() -> None:
    net = dense(16, 64, 64, 4)
    plan = graphprune.plan(net, 0.4, round_to=16, ratios={"0": 0.3}, **OPTIONS)
    assert kept(plan)["0.weight[0]"] == 48
    plan = graphprune.plan(net, 0.6, round_to=16, limits={"0": (20, 40)}, **OPTIONS)
    assert kept(plan)["0.weight[0]"] == 32
    with pytest.raises(OptionError, match=r"round_to=16: 0\.weight\[0\] has 64"):
        graphprune.plan(net, 0.5, round_to=16, limits={"0": (33, 47)}, **OPTIONS)
    with pytest.raises(OptionError, match=r"round_to=16: 0\.weight\[0\] has 8"):
        graphprune.plan(dense(16, 8, 64, 4), 0.5, round_to=16, ratios={"0": 0.5}, **OPTIONS)


def test_a_step_that_leaves_nothing_to_remove_is_an_error() -> None:
    with pytest.raises(BudgetError, match="round_to=64"):
        graphprune.plan(dense(16, 64, 32, 4), 0.5, round_to=64, **OPTIONS)


def test_thresholds_keep_multiples_too() -> None:
    net = dense(16, 64, 4)
    with torch.no_grad():
        net[0].weight[:3] = 1e-6
        net[2].weight[:, :3] = 1e-6
    free = graphprune.plan(net, importance="mu-2sigma", **OPTIONS)
    assert kept(free)["0.weight[0]"] == 61
    with pytest.raises(BudgetError):
        graphprune.plan(net, importance="mu-2sigma", round_to=16, **OPTIONS)


def test_a_registered_function_is_named_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "_COSTS", dict(costs._COSTS))

    def energy(deps: graphprune.Dependencies) -> Polynomial:
        return 4.6e-12 * costs._COSTS["macs"](deps)  # type: ignore[return-value,operator]

    net = dense(8, 32, 4)
    with pytest.raises(OptionError, match=r"put @graphprune\.cost\('energy'\) above"):
        graphprune.plan(net, 0.5, energy, **OPTIONS)
    graphprune.cost("energy")(energy)
    for given in (energy, "energy"):
        assert graphprune.plan(net, 0.5, given, **OPTIONS).of == "energy"
    plan = graphprune.plan(net, budget={energy: 0.5}, **OPTIONS)
    assert plan.of == "energy"


@pytest.mark.parametrize(
    "options",
    [
        {"ratios": 0.5}, {"ratios": ["0"]}, {"ratios": {"0": "half"}}, {"limits": 3},
        {"limits": {"0": (1, 2, 3)}}, {"limits": {"0": None}}, {"limits": {"0": float("nan")}},
        {"budget": 0.5}, {"budget": {"macs": None}}, {"round_to": "8"}, {"round_to": True},
        {"allocation": ["auto"]}, {"normalize": 3}, {"backend": {}},
        {"keep": 3}, {"keep": [3]}, {"of": None}, {"of": 3},
    ],
    ids=str,
)  # fmt: skip
def test_what_an_option_cannot_be_is_refused_by_name(options: dict[str, Any]) -> None:
    name = next(iter(options))
    word = {"of": "cost", "normalize": "normalisation"}.get(name, name)
    with pytest.raises(OptionError, match=word):
        graphprune.plan(dense(8, 32, 4), **{**OPTIONS, **options})


def test_numpy_numbers_are_numbers() -> None:
    net = dense(8, 32, 4)
    plan = graphprune.plan(net, np.float32(0.5), limits={"0": np.int64(4)}, **OPTIONS)
    assert kept(plan)["0.weight[0]"] == 16


def test_ratios_where_everything_is_kept_are_refused() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(graphprune.BudgetError, match="no group of channels"):
        graphprune.plan(model, ratios={"0": 0.25}, keep=[nn.Linear], compensate=False)


@pytest.mark.parametrize(
    ("ratio", "limit"), [(0.0, (0.2, 0.8)), (0.9, 0.25), (0.0, (1, 31)), (0.5, (4, 8))]
)
def test_ratios_against_limits_are_refused(ratio: float, limit: Any) -> None:
    net, ratios = dense(8, 32, 4), {"0": ratio}
    with pytest.raises(OptionError, match=r"ratios: '0' is .* 0\.weight\[0\] .* limits lets it"):
        graphprune.plan(net, ratios=ratios, limits={"*": limit}, **OPTIONS)


def test_ratios_within_limits_are_taken() -> None:
    net = dense(8, 9, 4)
    plan = graphprune.plan(net, ratios={"0": 0.5}, limits={"0": (0.5, 0.9)}, **OPTIONS)
    assert kept(plan)["0.weight[0]"] == 4
    plan = graphprune.plan(net, ratios={"0": 0.5}, limits={"0": 5}, **OPTIONS)
    assert kept(plan)["0.weight[0]"] == 5


def test_ratios_by_name_leave_what_a_layer_of_integers_reads() -> None:
    """The layer reads its weight as numbers that the file computes; its inputs are another's."""
    shapes = {"w1": (8, 16), "w2": (16, 12), "w3": (12, 3)}
    held = {name: (40 * normal(*shape)).astype(np.int8) for name, shape in shapes.items()}
    nodes = [helper.make_node("DequantizeLinear", [w, "s"], [f"{w}f"]) for w in held]
    chain = ["x", "a", "b", "y"]
    nodes += [
        helper.make_node("MatMul", [chain[i], f"w{i + 1}f"], [chain[i + 1]]) for i in range(3)
    ]
    model = graph(nodes, {**held, "s": np.float32(0.02)}, {"x": ["n", 8]}, {"y": ["n", 3]})
    plan = graphprune.plan(model, ratios={"w2": 0.5}, **OPTIONS)
    assert sorted(kept(plan).values()) == [6, 16]
