"""Models that torch.export cannot trace whole."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.torch_version import TorchVersion

import graphprune
from graphprune.core.errors import BudgetError, LiftError
from graphprune.frontends.torch.parts import Parts, Seen, find_parts


def mlp(width: int = 32) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 8))


def _parts(model: nn.Module, x: torch.Tensor) -> Parts:
    inputs = (x,), {}
    return find_parts(model, inputs, Seen(model, inputs))


class Gated(nn.Module):
    """Runs its second part only where the data says so."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp(), mlp()
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = self.first(x)
        if y.sum() > -1e9:
            y = self.second(y)
        return {"scores": self.head(y), "count": int((y > 0).sum())}


def test_parts_shrink_and_the_class_stays() -> None:
    torch.manual_seed(0)
    model, x = Gated().eval(), torch.randn(4, 8)
    before = {name: p.clone() for name, p in model.named_parameters()}
    plan = graphprune.plan(model, 0.4, example_inputs=x, effort="fast")
    small = plan.apply()
    assert type(small) is Gated and type(model) is Gated
    assert small.first[0].out_features < 32 and small.second[0].out_features < 32
    assert small.first[2].out_features == 8
    assert small(x)["scores"].shape == (4, 3)
    assert "in parts: first, second" in plan.report.warnings[0]
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_a_model_in_parts_stays(training: bool) -> None:
    model = Gated().train(training)
    small = graphprune.shrink(
        model, 0.4, example_inputs=torch.randn(4, 8), compensate=False, verify=False
    )
    assert {module.training for module in small.modules()} == {training}


def test_removal_equals_masking_through_the_whole_model() -> None:
    torch.manual_seed(0)
    model, x = Gated().double().eval(), torch.randn(4, 8, dtype=torch.float64)
    plan = graphprune.plan(model, 0.4, example_inputs=x, compensate=False)
    small = plan.apply()
    mask(model, plan)
    torch.testing.assert_close(small(x)["scores"], model(x)["scores"], rtol=1e-12, atol=1e-12)


def mask(model: nn.Module, plan: graphprune.Plan) -> None:
    """Zero in a model what a plan removes."""
    with torch.no_grad():
        for name, kept in plan.kept.items():
            weight = model.get_parameter(name)
            for dim, indices in enumerate(kept):
                if indices is not None:
                    gone = sorted(set(range(weight.shape[dim])) - set(indices.tolist()))
                    weight.index_fill_(dim, torch.tensor(gone), 0)


class _Left(Gated):
    """Holds a weight that no captured part has."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(40, 8))

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return super().forward(x + self.table[: len(x)])


def test_the_budget_is_of_all_parameters() -> None:
    torch.manual_seed(0)
    model, x = _Left().eval(), torch.randn(4, 8)
    total = sum(p.numel() for p in model.parameters())
    plan = graphprune.plan(model, 0.4, example_inputs=x, compensate=False)
    left = sum(p.numel() for p in plan.apply().parameters())
    assert abs(left / total - 0.6) < 0.01 and plan.report.params == (total, left)
    assert plan.live().deps.reachable() < 1 - 320 / total
    with pytest.raises(BudgetError) as error:
        graphprune.shrink(model, 0.8, example_inputs=x, compensate=False)
    assert 0.6 < error.value.closest < 1 - 320 / total


def test_a_plan_of_parts_travels(tmp_path: Any) -> None:
    model, x = Gated().eval(), torch.randn(4, 8)
    plan = graphprune.plan(model, 0.4, example_inputs=x, compensate=False)
    plan.save(tmp_path / "plan.json")
    again = graphprune.load_plan(tmp_path / "plan.json").apply(model)
    small = plan.apply()
    assert [p.shape for p in again.parameters()] == [p.shape for p in small.parameters()]


class _Drawn(Gated):
    """Draws numbers that say which of its parts run."""

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        y = self.first(x) if random.random() < 0.5 else x
        y = self.second(y) if torch.rand(()) < 0.5 else y
        return {"scores": self.head(y) if np.random.rand() < 2 else y}


@pytest.mark.parametrize("seed", range(4))
def test_passes_draw_the_same_numbers(seed: int) -> None:
    model, x = _Drawn().eval(), torch.randn(4, 8)
    random.seed(seed)
    torch.manual_seed(seed)
    first, second = random.random() < 0.5, bool(torch.rand(()) < 0.5)
    random.seed(seed)
    torch.manual_seed(seed)
    parts = _parts(model, x)
    wanted = ["first"] * first + ["second"] * second + ["head"]
    assert [path for path, _ in parts.calls] == wanted


class _Alternating(Gated):
    """Runs its second part in every other pass."""

    turn = 0

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        type(self).turn += 1
        y = self.first(x)
        if self.turn % 2 and y.sum() > -1e9:
            y = self.second(y)
        return {"scores": self.head(y) if y.sum() > -1e9 else y}


def test_parts_that_another_pass_does_not_call_are_left_alone() -> None:
    x = torch.randn(4, 8)
    lefts = []
    for turn in (0, 1):
        _Alternating.turn = turn
        parts = _parts(_Alternating().eval(), x)
        assert {"first", "head"} <= {path for path, _ in parts.calls}
        lefts.append(parts.left)
    assert "other calls" in lefts[0]["second"]
    assert "second" in lefts[1]


class _Fickle(nn.Module):
    """Every pass calls its only part in another way."""

    turn = 0

    def __init__(self) -> None:
        super().__init__()
        self.only = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).turn += 1
        y = self.only(x[(None,) * (self.turn % 2 + 1)])
        return y if y.sum() > -1e9 else -y


def test_no_part_that_is_called_again_is_an_error_that_says_so() -> None:
    with pytest.raises(LiftError, match="other calls of it"):
        graphprune.shrink(_Fickle().eval(), 0.5, example_inputs=torch.randn(4, 8), compensate=False)


class Borrowing(Gated):
    """Code outside the parts uses a weight of one of them."""

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        found = super().forward(x)
        return {**found, "norm": torch.linalg.matrix_norm(self.first[0].weight)}


def test_weights_used_outside_the_parts_keep_their_shapes() -> None:
    deps = graphprune.analyze(Borrowing().eval(), torch.randn(4, 8))
    assert {group.name for group in deps.groups} == {"second.0.weight[0]"}
    reasons = {lock.reason for lock in deps.locks}
    assert "used outside the captured parts" in reasons


class Stubborn(nn.Module):
    """No part of it can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.layer.weight if x.sum() > 0 else x


def test_no_part_at_all_is_an_error_that_says_so() -> None:
    with pytest.raises(LiftError, match="No submodule of it can be captured by itself either"):
        graphprune.shrink(Stubborn(), 0.5, example_inputs=torch.randn(4, 8), compensate=False)


def test_a_ratio_that_the_parts_cannot_reach_is_an_error() -> None:
    with pytest.raises(BudgetError, match="cannot be reached"):
        graphprune.shrink(
            Borrowing().eval(), 0.9, example_inputs=torch.randn(4, 8), compensate=False
        )


class Picking(nn.Module):
    """Goes on with the distinct rows, however many there are."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.unique(x.round(), dim=0)


class Mixed(nn.Module):
    """Branches on what its first part makes, which holds an operation without a fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(8, 8), Picking())
        self.second = mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.first(x)
        return self.second(x) if len(rows) > 1 and rows.sum() > -1e9 else x


def test_parts_whose_sizes_depend_on_the_data_are_left_alone() -> None:
    torch.manual_seed(0)
    plan = graphprune.plan(Mixed().eval(), 0.3, example_inputs=torch.randn(4, 8), effort="fast")
    assert plan.apply().second[0].out_features < 32
    (told,) = [text for text in plan.report.warnings if "in parts" in text]
    assert "first (aten._unique2" in told or "first.0" in told


def test_only_the_arguments_of_parts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = Gated().eval(), torch.randn(4, 8)
    held, clone = [], torch.clone
    monkeypatch.setattr(torch, "clone", lambda y: held.append(y) or clone(y))
    parts = _parts(model, x)
    with torch.no_grad():
        first = model.first(x)
        second = model.second(first)
    taken = [args[0] for _, (args, _) in parts.calls]
    for found, wanted in zip(taken, (x, first, second), strict=True):
        assert torch.equal(found, wanted)
    assert len(held) == len(taken)


class _Attending(nn.Module):
    """Divides a width that has to stay, so that its code can express no other number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.heads = 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, t, c = x.shape
        q, k, v = (
            p(x).view(n, t, self.heads, c // self.heads).transpose(1, 2)
            for p in (self.query, self.key, self.value)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        out: torch.Tensor = self.out(y.transpose(1, 2).reshape(n, t, -1))
        return out


class _Choosing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _Attending(), _Attending()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.first(x)
        return self.second(y[:, 1:]) if y.sum() > -1e9 else y


def test_generated_parts_take_any_batch() -> None:
    torch.manual_seed(0)
    model, x = _Choosing().double().eval(), torch.randn(2, 5, 16, dtype=torch.float64)
    plan = graphprune.plan(model, 0.5, example_inputs=x, compensate=False)
    small = plan.apply()
    assert plan.report.replaced
    mask(model, plan)
    more = torch.randn(7, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(small(more), model(more), rtol=1e-12, atol=1e-12)


class _Sloped(nn.Module):
    """The slope of an energy at each sample."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 32), nn.Linear(32, 1)

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).tanh()).sum()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.func.vmap(torch.func.grad(self.energy))(x)


def test_what_is_called_inside_a_transform_is_no_part() -> None:
    with pytest.raises(graphprune.LiftError, match="cannot capture _Sloped") as told:
        graphprune.shrink(_Sloped(), 0.5, example_inputs=torch.randn(4, 6))
    assert "rejects" not in str(told.value)


class _Forward(nn.Module):
    """A forward-mode derivative of the second of two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 8))
        self.last = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3))

    def forward(self, x: torch.Tensor) -> Any:
        y = self.first(x)
        return torch.func.jvp(self.last, (y,), (torch.ones_like(y),))


def test_parts_around_forward_mode_derivatives_shrink() -> None:
    model, x = _Forward(), torch.randn(4, 6)
    small = graphprune.shrink(model, 0.3, example_inputs=x, compensate=False)
    assert small.first[0].out_features < 32
    assert [y.shape for y in small(x)] == [(4, 3), (4, 3)]


class _Code(nn.Module):
    """An operation that takes code, between layers that could be captured by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 8))
        self.last = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (y,))
        return self.last(y)


@pytest.mark.skipif(
    TorchVersion(torch.__version__) < "2.8", reason="torch.cond does not run there while watched"
)
def test_operations_that_take_code_are_left_alone_by_name() -> None:
    x = torch.randn(4, 6)
    plan = graphprune.plan(_Code().eval(), 0.4, example_inputs=x, compensate=False)
    small = plan.apply()
    assert small.first[0].out_features < 32 and small.last[0].out_features < 32
    assert any("cond in" in warning for warning in plan.report.warnings)
