"""Budgets, what is kept, and plans as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune import BudgetError, GraphPruneError
from tests.blocks import Residual


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 96, 3, padding=1), nn.BatchNorm2d(96), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


X = torch.randn(2, 3, 16, 16)


@pytest.mark.parametrize("of", ["params", "macs", "channels"])
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.9])
def test_budget_is_within_one_percent(net: nn.Module, of: str, ratio: float) -> None:
    plan = graphprune.plan(net, ratio, of, example_inputs=X, compensate=False)
    assert plan.report.achieved == pytest.approx(ratio, abs=0.01)


def test_params_in_the_report_are_those_of_the_model(net: nn.Module) -> None:
    plan = graphprune.plan(net, 0.5, example_inputs=X, compensate=False)
    small = plan.apply()
    assert plan.report.params[1] == sum(p.numel() for p in small.parameters())


def test_macs_are_those_of_one_sample(net: nn.Module) -> None:
    plan = graphprune.plan(net, 0.5, example_inputs=X, compensate=False)
    assert plan.report.macs[0] == 16 * 16 * 9 * (3 * 64 + 64 * 96) + 96 * 10


def test_unreachable_budget_names_the_closest_ratio(net: nn.Module) -> None:
    with pytest.raises(BudgetError, match=r"cannot be reached") as error:
        graphprune.plan(net, 0.99, ratios={"0": 0.5, "3": 0.5}, example_inputs=X, compensate=False)
    assert error.value.closest == pytest.approx(0.73, abs=0.03)
    with pytest.raises(BudgetError, match="cannot be reached") as error:
        graphprune.plan(net, 0.99, keep="8", example_inputs=X, compensate=False)
    closest = error.value.closest
    assert closest is not None
    assert (
        graphprune.plan(
            net, closest - 0.01, keep="8", example_inputs=X, compensate=False
        ).report.achieved
        > 0
    )


def test_too_small_a_ratio_is_not_a_silent_no_op(net: nn.Module) -> None:
    with pytest.raises(BudgetError, match="too small to remove a single index") as error:
        graphprune.plan(net, 1e-7, example_inputs=X, compensate=False)
    assert error.value.closest is not None
    assert error.value.closest > 0


def test_nothing_to_prune_is_an_error_with_the_reasons() -> None:
    with pytest.raises(BudgetError, match="model input"):
        graphprune.shrink(nn.Sequential(nn.Linear(4, 4)), 0.5, compensate=False)


@pytest.mark.parametrize("ratio", [-0.1, 1.0, 1.5, float("nan"), "half", True])
def test_ratio_outside_zero_to_one_is_refused(net: nn.Module, ratio: float) -> None:
    with pytest.raises(GraphPruneError, match="ratio is the fraction to remove"):
        graphprune.plan(net, ratio, example_inputs=X, compensate=False)


def test_keep_by_name_by_wildcard_and_by_type(net: nn.Module) -> None:
    for keep in ("0", "0.weight", ["0*"]):
        small = graphprune.shrink(net, 0.4, keep=keep, example_inputs=X, compensate=False)
        assert small[0].out_channels == 64
        assert small[3].out_channels < 96
    with pytest.raises(BudgetError, match="kept on request"):
        graphprune.shrink(net, 0.4, keep=[nn.Conv2d], example_inputs=X, compensate=False)


def test_keep_takes_weights_of_the_model(net: nn.Module) -> None:
    weight = next(net.parameters())
    small = graphprune.shrink(net, 0.2, keep=[weight], example_inputs=X, compensate=False)
    assert next(small.parameters()).shape == weight.shape
    with pytest.raises(GraphPruneError, match="no part of the model"):
        graphprune.plan(net, 0.2, keep=nn.Parameter(torch.ones(3)), example_inputs=X)


def test_keep_that_matches_nothing_is_an_error(net: nn.Module) -> None:
    with pytest.raises(GraphPruneError, match="'layer9'"):
        graphprune.plan(net, 0.4, keep=["layer9"], example_inputs=X, compensate=False)
    with pytest.raises(GraphPruneError, match="LSTM"):
        graphprune.plan(net, 0.4, keep=[nn.LSTM], example_inputs=X, compensate=False)


def test_ratios_fix_the_fraction_of_some_layers(net: nn.Module) -> None:
    small = graphprune.shrink(net, 0.6, ratios={"0": 0.25}, example_inputs=X, compensate=False)
    assert small[0].out_channels == 48
    with pytest.raises(GraphPruneError, match="matches no layer"):
        graphprune.plan(net, 0.5, ratios={"nowhere": 0.5}, example_inputs=X, compensate=False)
    with pytest.raises(GraphPruneError, match="outside"):
        graphprune.plan(net, 0.5, ratios={"0": 1.0}, example_inputs=X, compensate=False)


def test_round_to_makes_widths_multiples(net: nn.Module) -> None:
    small = graphprune.shrink(net, 0.5, round_to=16, example_inputs=X, compensate=False)
    assert small[0].out_channels % 16 == 0
    assert small[3].out_channels % 16 == 0


def test_a_criterion_is_a_function_of_a_few_lines() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))

    def largest_first(weight: torch.Tensor, dim: int) -> np.ndarray:
        return np.arange(weight.shape[dim])

    plan = graphprune.plan(net, 0.5, importance=largest_first, compensate=False)
    kept = plan.kept["0.weight"][0]
    assert kept is not None
    assert kept.tolist() == list(range(32 - len(kept), 32))
    small = plan.apply()
    torch.testing.assert_close(small[0].weight, net[0].weight[kept])
    torch.testing.assert_close(small[2].weight, net[2].weight[:, kept])


def test_a_criterion_of_the_wrong_shape_is_named(net: nn.Module) -> None:
    with pytest.raises(GraphPruneError, match=r"64 finite scores .* it gave shape \(3,\)"):
        graphprune.plan(
            net, 0.5, importance=lambda w, d: np.ones(3), example_inputs=X, compensate=False
        )


def test_unknown_options_are_named(net: nn.Module) -> None:
    for options in ({"importance": "l7"}, {"allocation": "odd"}, {"of": "watts"}, {"round_to": 0}):
        with pytest.raises(GraphPruneError, match=str(next(iter(options.values())))):
            graphprune.plan(net, 0.5, example_inputs=X, **options)


def test_l2_keeps_the_slices_with_the_largest_squares() -> None:
    net = nn.Sequential(nn.Linear(3, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.arange(1.0, 9.0)[:, None].expand(8, 3))
        net[2].weight.zero_()
        net[2].weight[:, 0] = 100.0
    kept = graphprune.plan(net, 0.5, importance="l2", compensate=False).kept["0.weight"][0]
    assert kept is not None
    assert kept.tolist() == [0, 5, 6, 7]


def test_the_same_call_gives_the_same_plan(net: nn.Module) -> None:
    plans = [
        graphprune.plan(net, 0.5, example_inputs=X, importance="random", compensate=False)
        for _ in range(2)
    ]
    assert plans[0].as_dict() == plans[1].as_dict()


def test_a_plan_travels_as_json(net: nn.Module, tmp_path: Path) -> None:
    plan = graphprune.plan(net, 0.5, example_inputs=X, compensate=False)
    plan.save(tmp_path / "plan.json")
    loaded = graphprune.load_plan(tmp_path / "plan.json")
    assert loaded.as_dict() == plan.as_dict()
    with pytest.raises(GraphPruneError, match="needs a model"):
        loaded.apply()
    small = loaded.apply(net)
    assert [p.shape for p in small.parameters()] == [p.shape for p in plan.apply().parameters()]


class _Bags(nn.Module):
    """Bags of words that lie behind one another: the first starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.bags, self.head = nn.EmbeddingBag(20, 32), nn.Linear(32, 8)

    def forward(self, words: torch.Tensor, starts: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return self.head(self.bags(words, starts)) * z.abs()


def test_integers_and_complex_numbers_travel_with_a_plan(tmp_path: Path) -> None:
    model = _Bags()
    example = torch.randint(20, (12,)), torch.tensor([0, 4, 9]), torch.randn(3, 8) * 1j
    plan = graphprune.plan(model, 0.5, example_inputs=example, compensate=False)
    plan.save(tmp_path / "plan.json")
    small = graphprune.load_plan(tmp_path / "plan.json").apply(model)
    torch.testing.assert_close(small(*example), plan.apply()(*example))


def test_a_plan_for_another_model_is_refused(net: nn.Module, tmp_path: Path) -> None:
    graphprune.plan(net, 0.5, example_inputs=X, compensate=False).save(tmp_path / "plan.json")
    with pytest.raises(GraphPruneError, match="another model"):
        graphprune.load_plan(tmp_path / "plan.json").apply(Residual())


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}', '{"format": 1, "groups": 3}'])
def test_a_file_that_is_no_plan_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(GraphPruneError, match=r"bad\.json"):
        graphprune.load_plan(path)
    with pytest.raises(GraphPruneError, match="cannot read"):
        graphprune.load_plan(tmp_path / "missing.json")


def test_saving_where_there_is_no_folder_is_an_error(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(GraphPruneError, match="cannot write"):
        graphprune.plan(net, 0.5, example_inputs=X, compensate=False).save(
            tmp_path / "no" / "plan.json"
        )


def test_the_report_is_text_and_plain_data(net: nn.Module) -> None:
    plan = graphprune.plan(net, 0.5, example_inputs=X, compensate=False)
    plan.apply()
    text = str(plan.report)
    assert "0.weight[0]" in text
    assert "removal equals masking" in text
    data = json.loads(json.dumps(plan.report.as_dict()))
    assert data["params"][0] == sum(p.numel() for p in net.parameters())
    assert data["kept_class"] is True
