"""Sensitivity: what an error in a layer does to the results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.compensation import sensitivity as module
from graphprune.compensation.consumers import find_consumers
from graphprune.compensation.curves import loss_curves
from graphprune.compensation.layout import Layout
from graphprune.compensation.perturb import perturb
from graphprune.compensation.sensitivity import Sensitivity, sensitivities
from graphprune.core.allowance import Allowance
from graphprune.engine.engine import Engine
from graphprune.engine.run import chunked
from graphprune.statistics.moments import Moments, observed
from graphprune.statistics.samples import Samples, split, walk


def _sensed(model: nn.Module, x: Tensor) -> list[Sensitivity | None]:
    """For each linear layer, in their order."""
    deps = graphprune.analyze(model, x[:2])
    ops = [op for op in deps.source.ops if op.type in ("aten.linear", "aten.conv2d")]
    found = sensitivities(deps, split(deps, [x], "test"), ops)
    assert found is not None
    return [found.get(op) for op in ops]


def test_a_linear_layer_counts_as_the_next_one_weighs_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 50, bias=False))
    with torch.no_grad():
        model[1].weight *= torch.tensor([3.0, 1.0, 0.0, 0.3])
    x = torch.randn(64, 6)
    first, last = _sensed(model, x)
    assert first is not None
    assert last is not None
    spread = model(x).detach().var(unbiased=False)
    exact = model[1].weight.detach().double().square().sum(0) / spread / 50
    assert first.channels[2] == 0.0
    ratios = (first.channels / exact)[[0, 1, 3]]
    assert ratios.min() > 0.4, "but for the noise of random directions"
    assert ratios.max() < 2.5
    assert last.whole == pytest.approx(1.0, rel=0.3), "the results are what it computes"


def test_what_varies_alike_over_positions_does_not_cancel() -> None:
    """The mean over positions keeps an error that all of them share."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    noisy = torch.randn(64, 3, 8, 8)
    flat = torch.randn(64, 3, 1, 1).expand(64, 3, 8, 8)
    (alone,), (together,) = _sensed(model, noisy), _sensed(model, flat)
    assert alone is not None
    assert together is not None
    assert together.whole == pytest.approx(1.0, rel=0.3)
    assert alone.whole == pytest.approx(1.0, rel=0.3), "relative to results that cancel alike"


def test_without_time_the_first_samples_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 5)), torch.randn(64, 6)
    deps = graphprune.analyze(model, x[:2])
    ops = [op for op in deps.source.ops if op.type == "aten.linear"]
    samples = Samples([(part,) for part in x.split(8)], 8, "test")
    runs: list[int] = []
    whole = module._sensed

    def counted(*args: Any) -> Any:
        runs.append(1)
        return whole(*args)

    monkeypatch.setattr(module, "_sensed", counted)
    assert sensitivities(deps, samples, ops) is not None
    assert len(runs) == 8
    found = sensitivities(deps, samples, ops, Allowance(0.0))
    assert found is not None and set(found) == set(ops)
    assert len(runs) == 9


class Cut(nn.Module):
    """Results that no gradient reaches through one of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(6, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.a(x).relu() * torch.sign(self.b(x)))


def test_layers_that_no_gradient_reaches_are_weighed_all_the_same() -> None:
    torch.manual_seed(0)
    model, x = Cut(), torch.randn(64, 6)
    deps = graphprune.analyze(model, x[:2])
    before = {name: (p.clone(), p.requires_grad) for name, p in model.named_parameters()}
    (curve,) = loss_curves(deps, split(deps, [x], "test")).levels
    assert curve is not None
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name][0]), "the model is as it was"
        assert parameter.requires_grad == before[name][1]
        assert parameter.grad is None


def test_without_gradients_there_is_no_answer() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(64, 6)
    deps = graphprune.analyze(model, x[:2])
    samples = split(deps, [x], "test")
    deps.source.engine = Engine(lambda *_: [])
    assert sensitivities(deps, samples, deps.source.ops) is None


def test_perturbations_tell_what_gradients_do() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.Tanh(),
        nn.Linear(8, 40),
    )
    x = torch.randn(64, 3, 10, 10)
    deps = graphprune.analyze(model, x[:2])
    samples = split(deps, [x], "test")
    ops = [op for op in deps.source.ops if op.type in ("aten.linear", "aten.conv2d")]
    felt = sensitivities(deps, samples, ops)
    seen = perturb(deps, samples, ops)
    assert felt is not None
    assert seen is not None
    for op in ops:
        assert seen[op] == pytest.approx(felt[op].whole, rel=0.5)


def test_runs_that_would_take_long_are_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(64, 6)
    deps = graphprune.analyze(model, x[:2])
    several = Samples(list(chunked([x], 16)), 16, "test")
    ops = [op for op in deps.source.ops if op.type == "aten.linear"]
    whole = perturb(deps, several, ops)
    monkeypatch.setattr("graphprune.compensation.perturb.PERTURBED_CALLS", 2 * len(deps.source.ops))
    fewer = perturb(deps, several, ops)
    assert whole != fewer, "of fewer samples"
    monkeypatch.setattr("graphprune.compensation.perturb.PERTURBED_CALLS", 1)
    assert perturb(deps, several, ops) is None


def test_runs_that_the_clock_does_not_allow_are_not_begun() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(32, 6)
    deps = graphprune.analyze(model, x[:2])
    several = Samples(list(chunked([x], 16)), 16, "test")
    ops = [op for op in deps.source.ops if op.type == "aten.linear"]
    assert perturb(deps, several, ops, Allowance(0.0)) is None
    assert perturb(deps, several, ops, Allowance(3600.0)) == perturb(deps, several, ops)


class Steps(nn.Module):
    """Two layers over the steps of sequences, which lie as the argument says."""

    def __init__(self, order: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.order = order
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        samples, steps, _ = x.shape
        if self.order == "steps first":
            y: Tensor = self.b(self.a(x.transpose(0, 1)).relu()).mean(0)
        elif self.order == "steps and samples":
            y = self.b(self.a(x.transpose(0, 1).reshape(steps * samples, 6)).relu())
            y = y.view(steps, samples, 5).mean(0)
        else:
            y = self.b(self.a(x).relu()).mean(1)
        return y


@pytest.mark.parametrize("way", ["gradients", "perturbed"])
@pytest.mark.parametrize("order", ["steps first", "steps and samples"])
def test_it_does_not_matter_where_samples_lie(order: str, way: str) -> None:
    x = torch.randn(64, 7, 6) + torch.randn(64, 1, 6)

    def sensed(net: nn.Module) -> Tensor:
        deps = graphprune.analyze(net, x[:2])
        ops = [op for op in deps.source.ops if op.type == "aten.linear"]
        samples = split(deps, [x], "test")
        if way == "perturbed":
            found = perturb(deps, samples, ops)
            assert found is not None
            return torch.tensor([found[op] for op in ops])
        exact = sensitivities(deps, samples, ops)
        assert exact is not None
        return torch.cat([exact[op].channels for op in ops])

    torch.testing.assert_close(sensed(Steps(order)), sensed(Steps("samples first")))


def test_rows_count_as_many_wherever_samples_lie() -> None:
    """Steps that are alike tell little, which the ridge of every fit depends on."""
    x = 0.1 * torch.randn(64, 7, 6) + torch.randn(64, 1, 6)

    def scarcity(order: str) -> float:
        deps = graphprune.analyze(Steps(order), x[:2])
        op = next(op for op in deps.source.ops if op.type == "aten.linear")
        (consumer,) = find_consumers(deps).by_op[op]
        how = Layout(1, 1, 6, 1)
        samples = split(deps, [x], "test")
        for at, run in walk(deps, samples):
            if at is op:
                rows = [how.rows(y, consumer.channel) for y in run.values(consumer.value)]
                pairs = [(y, y) for y in rows]
                after = how.behind(deps, consumer)
                return float(observed(pairs, samples.size, Moments(), after).scarcity())
        raise AssertionError("not run")

    first = scarcity("samples first")
    assert scarcity("steps first") == pytest.approx(first)
    assert scarcity("steps and samples") == pytest.approx(first)


def test_what_is_written_in_place_counts_as_it_was() -> None:
    x = torch.randn(64, 3, 6, 6)

    def sensed(in_place: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(in_place), nn.Conv2d(8, 4, 3), nn.ReLU(in_place),
            nn.Flatten(), nn.Linear(16, 5),
        )  # fmt: skip
        return [found.channels for found in _sensed(model, x) if found is not None]

    torch.testing.assert_close(sensed(True), sensed(False))
