"""Bad input gets an error that names the thing and the way out, and nothing is lost."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import BudgetError, GraphPruneError, LiftError, VerifyError
from graphprune.frontends.torch import lift as lifting
from tests.blocks import Residual, images
from tests.own_operation import unruled


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(y) if y.sum() > 0 else self.b(-y)


def test_not_a_module() -> None:
    with pytest.raises(GraphPruneError, match=r"\(.pt2\) or an ONNX model is needed, not a dict"):
        graphprune.shrink({}, 0.5, compensate=False)  # type: ignore[type-var]


def test_no_parameters() -> None:
    with pytest.raises(LiftError, match="no parameters"):
        graphprune.shrink(nn.Sequential(nn.ReLU()), 0.5, compensate=False)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(bad: float) -> None:
    model = Residual()
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = bad
    with pytest.raises(LiftError, match=r"conv2\.weight holds NaN or infinite"):
        graphprune.shrink(model, 0.5, example_inputs=images(), compensate=False)


def test_inputs_that_the_model_rejects() -> None:
    with pytest.raises(LiftError, match=r"rejects example inputs of shapes \[\(2, 5\)\]"):
        graphprune.shrink(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), 0.5,
                          example_inputs=torch.randn(2, 5), compensate=False)  # fmt: skip


def test_inputs_of_no_known_kind() -> None:
    with pytest.raises(LiftError, match="example_inputs is a int"):
        graphprune.shrink(Residual(), 0.5, example_inputs=3, compensate=False)


def test_control_flow_that_depends_on_data_is_named() -> None:
    with pytest.raises(BudgetError, match="cannot capture Branching") as error:
        graphprune.shrink(Branching(), 0.5, compensate=False)
    assert "example_inputs" in str(error.value)
    assert re.search(r"Rewrite line \d+ of \w+\.py: .*if ", str(error.value))


def test_sizes_that_depend_on_data_are_named() -> None:
    class Selecting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(y[y.sum(1) > 0])

    with pytest.raises(
        BudgetError, match=r"aten\.\w+ in the top-level module makes a tensor whose size"
    ):
        graphprune.shrink(Selecting(), 0.5, compensate=False)


def test_inputs_that_cannot_be_found() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 8)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) + y

    with pytest.raises(LiftError, match=r"Two\.forward\(x, y\)") as error:
        graphprune.shrink(Two(), 0.5, compensate=False)
    assert "example_inputs=(torch.randn(" in str(error.value)


@pytest.mark.filterwarnings("ignore")
def test_scripted_modules() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))
    with pytest.raises(LiftError, match="scripted"):
        graphprune.shrink(scripted, 0.5, compensate=False)
    with pytest.raises(LiftError, match=r"0 \(RecursiveScriptModule\) is scripted"):
        graphprune.shrink(nn.Sequential(scripted, nn.Linear(2, 2)), 0.5, compensate=False)


@pytest.mark.filterwarnings("ignore")
def test_quantized_modules() -> None:
    model = torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Linear(4, 8), nn.Conv1d(1, 1, 1)), {nn.Linear}
    )
    with pytest.raises(LiftError, match=r"0 \(Linear\) is quantized"):
        graphprune.shrink(model, 0.5, compensate=False)


def test_meta_tensors() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    with pytest.raises(LiftError, match=r"0\.weight is on the meta device"):
        graphprune.shrink(model, 0.5, compensate=False)


def test_lazy_modules() -> None:
    with pytest.raises(LiftError, match=r"0\.weight is not initialized"):
        graphprune.shrink(nn.Sequential(nn.LazyLinear(8)), 0.5, compensate=False)


def test_orthogonal_parametrization_is_locked_not_broken() -> None:
    model = nn.Sequential(
        torch.nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 2)
    )
    with pytest.raises(BudgetError, match="cannot be reached"):
        graphprune.shrink(model, 0.5, compensate=False)


def test_an_unknown_operation_costs_prunability_only() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = unruled(self.a(x))
            return self.c(torch.relu(self.b(y)))

    plan = graphprune.plan(Odd(), 0.3, effort="fast")
    small = plan.apply()
    assert "graphprune_tests.unruled" in plan.report.unknown
    assert small.a.out_features == 16
    assert small.b.out_features < 16
    assert "graphprune_tests.unruled" in str(plan.report)


def test_a_wrong_rule_is_caught_and_the_layer_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphprune.rules import registry

    rule = registry._RULES["aten.relu"]
    monkeypatch.setitem(registry._RULES, "aten.flip", rule)

    class Flipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).flip(1))

    model = Flipped()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(VerifyError, match="flip") as error:
        graphprune.shrink(model, 0.5, compensate=False)
    assert "flip" in error.value.layer
    assert error.value.difference > 0.01
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_failing_check_leaves_the_model_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Residual().train()
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(lifting, "TORCH", replace(lifting.TORCH, tolerance=-1.0))
    with pytest.raises(VerifyError):
        graphprune.shrink(model, 0.5, example_inputs=images(), compensate=False)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
