"""Gates that are learned with the weights."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import graphprune
from graphprune import OptionError
from graphprune.core.errors import GraphPruneError
from graphprune.costs.latency import Timer
from graphprune.costs.latency.timing import in_turns
from graphprune.training import Gates
from graphprune.training.spent import Spent
from tests.training.nets import INPUTS, cnn, train


class Work(Timer):
    """Stands in for the clock: the numbers of the weights of convolutions."""

    def seconds(self, key: str, prepare: Any, device: torch.device) -> float:
        return float(prepare().args[1].numel()) if "conv2d" in key else 0.0


class Attention(nn.Module):
    """Two heads over a sequence, and an MLP, with residual streams."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.out = nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x)).view(b, n, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(b, n, 8))
        return self.head(x + self.down(torch.nn.functional.gelu(self.up(x))))


@pytest.mark.parametrize("kind", ["hard_concrete", "bernoulli", "gaussian"])
def test_gates_reach_their_budget_and_the_plan_meets_it(kind: str) -> None:
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    gates = Gates(model, 0.6, kind=kind, example_inputs=INPUTS[:2], warmup=30).attach(optimizer)
    assert float(gates.left().detach()) > 0.7
    train(model, optimizer, 120)
    assert float(gates.left().detach()) == pytest.approx(0.4, abs=0.08)
    plan = gates.plan(compensate=False)
    small = plan.apply()
    assert plan.report is not None and plan.report.achieved == pytest.approx(0.6, abs=0.02)
    assert type(small) is nn.Sequential and not small._forward_pre_hooks
    assert "parametrizations" not in " ".join(small.state_dict())
    assert "parametrizations" in " ".join(model.state_dict())  # the copy alone was stripped
    chances = gates.open()["0.weight[0]"]
    kept = plan.groups[0].keep
    assert kept is not None and set(kept) == set(chances.topk(len(kept)).indices.tolist())


def test_a_closed_gate_computes_what_the_network_without_the_index_computes() -> None:
    """In eval mode: what a plan of the closed indices gives, to rounding."""
    model = cnn().double().eval()
    gates = Gates(model, 0.5, example_inputs=INPUTS[:2].double())
    with torch.no_grad():
        for gate in gates._gates.values():
            gate.log_alpha.fill_(9.0)
            gate.log_alpha[::2] = -9.0
    plan = gates.plan(compensate=False, round_to=1)
    for edit in plan.groups:
        edit.keep = np.arange(edit.size)[1::2]
    small = plan.apply()
    assert small[0].out_channels == 6 and small[3].out_channels == 8
    assert torch.allclose(small(INPUTS.double()), model(INPUTS.double()), atol=1e-12)


def test_heads_and_hidden_units_have_gates_and_the_stream_that_is_normalised_none() -> None:
    torch.manual_seed(0)
    model = Attention()
    x = torch.randn(2, 5, 6)
    before = model(x)
    gates = Gates(model, 0.3, example_inputs=x)
    names = " ".join(gates.open())
    assert "up.weight[0]" in names and "qkv.weight[0]" in names
    assert not any(size == 8 for size in (len(v) for v in gates.open().values()))
    model.eval()
    assert torch.allclose(model(x), before, atol=1e-5)  # open gates are 1 in eval mode
    mixed = Gates(Attention(), 0.3, example_inputs=x, mixed=True)
    assert len(mixed.open()) > len(gates.open())
    loss = model.train()(x).square().mean() + gates.loss()
    loss.backward()
    assert all(gate.log_alpha.grad is not None for gate in gates._gates.values())


def test_taken_out_the_model_is_as_before() -> None:
    model = cnn()
    names = list(model.state_dict())
    kinds = [type(module) for module in model.modules()]
    expected = model.eval()(INPUTS)
    model.train()
    gates = Gates(model, 0.5, example_inputs=INPUTS[:2])
    assert model[0].training
    gates.remove()
    assert sorted(model.state_dict()) == sorted(names) and model.training
    assert [type(module) for module in model.modules()] == kinds
    assert not model._forward_pre_hooks
    assert torch.allclose(model.eval()(INPUTS), expected, atol=1e-5)
    with pytest.raises(GraphPruneError, match="were removed"):
        gates.attach(torch.optim.SGD(model.parameters(), 0.1))


def test_state_goes_on_with_the_models_own() -> None:
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    gates = Gates(model, 0.5, example_inputs=INPUTS[:2], warmup=10).attach(optimizer)
    train(model, optimizer, 5)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), gates.state_dict()))
    fresh = cnn(seed=2)
    other = torch.optim.Adam(fresh.parameters(), 1e-2)
    again = Gates(fresh, 0.5, example_inputs=INPUTS[:2], warmup=10).attach(other)
    fresh.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    torch.manual_seed(4)
    one = train(model, optimizer, 3)
    torch.manual_seed(4)
    assert train(fresh, other, 3) == one


def test_schedules_scaled_gradients_and_plain_optimizers_leave_gates_their_own_rate() -> None:
    """The optimizer's groups are as they were; what a `GradScaler` scales is unscaled."""
    alphas = []
    for scale in (1.0, 1024.0):
        model = cnn()
        optimizer = torch.optim.SGD(model.parameters(), 1e-2, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=9)
        gates = Gates(model, 0.5, example_inputs=INPUTS[:2], warmup=1, rate=0.1).attach(optimizer)
        assert len(optimizer.param_groups) == 1
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        torch.manual_seed(0)
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(model.train()(INPUTS).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()
        alphas.append(torch.cat([gate.log_alpha.detach() for gate in gates._gates.values()]))
        moved = (alphas[-1] - 2.5).abs()
        assert 0.2 < float(moved.max()) < 0.31  # three steps of Adam, each of 0.1 at most
    assert torch.allclose(*alphas, atol=1e-4)


def test_two_forward_passes_before_a_backward_and_compilation_work() -> None:
    model = cnn()
    Gates(model, 0.5, example_inputs=INPUTS[:2])
    (model(INPUTS).sum() + model(INPUTS * 2).sum()).backward()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    assert len(train(compiled, optimizer, 2)) == 2


def test_what_cannot_have_gates_is_refused() -> None:
    model = cnn()
    with pytest.raises(OptionError, match="no kind of gates"):
        Gates(model, 0.5, kind="hard", example_inputs=INPUTS[:2])
    with pytest.raises(OptionError, match="ratio"):
        Gates(model, 1.0, example_inputs=INPUTS[:2])
    for layer in (model[0], model[3]):
        parametrizations.weight_norm(layer)
    with pytest.raises(OptionError, match="parametrized already"):
        Gates(model, 0.5, example_inputs=INPUTS[:2])
    plain = cnn()
    Gates(plain, 0.5, example_inputs=INPUTS[:2])
    with pytest.raises(OptionError, match="gates already"):
        Gates(plain, 0.5, example_inputs=INPUTS[:2])


@pytest.mark.parametrize("of", ["latency", "memory"])
def test_costs_that_fall_in_steps_have_slopes(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.training.spent.Timer", Work)
    deps = graphprune.analyze(cnn(), INPUTS[:2])
    spent = Spent(deps, of)
    counts = torch.tensor(deps.sizes(), requires_grad=True)
    whole = spent(counts)
    whole.backward()
    assert float(whole.detach()) == 1 and counts.grad is not None
    assert bool((counts.grad >= 0).all()) and float(counts.grad.sum()) > 0
    assert float(spent(counts.detach() / 2)) < 1


def test_gates_reach_a_budget_of_measured_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.training.spent.Timer", Work)
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    gates = Gates(model, 0.4, "latency", example_inputs=INPUTS[:2], warmup=30).attach(optimizer)
    train(model, optimizer, 120)
    assert float(gates.left().detach()) == pytest.approx(0.6, abs=0.1)


@pytest.mark.slow
def test_gates_reach_a_budget_of_this_machine_s_time() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 96, 3, padding=1), nn.BatchNorm2d(96), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 4),
    )  # fmt: skip
    like = nn.functional.interpolate(INPUTS, 24)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    gates = Gates(model, 0.5, "latency", example_inputs=like[:8], warmup=40).attach(optimizer)
    train(model, optimizer, 150, like)
    assert float(gates.left().detach()) == pytest.approx(0.5, abs=0.1)
    small = gates.plan().apply()
    gates.remove()
    model.eval()
    small.eval()
    calls = [lambda: model(like), lambda: small(like)]
    before, after = in_turns(calls, torch.device("cpu"))
    assert after / before == pytest.approx(0.5, abs=0.15)
