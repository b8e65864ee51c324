"""Latency: tables of measured operations, the knapsack over them, and the cache."""

from __future__ import annotations

import json
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.choice import aim
from graphprune.choice.aim import batch_sizes
from graphprune.choice.knapsack import knapsack
from graphprune.costs.latency import Latency, Timer, forward_seconds
from graphprune.costs.latency.table import Table
from graphprune.frontends.backends import Eager
from graphprune.frontends.opening import open_model
from graphprune.frontends.torch.saving import save_model
from graphprune.passes.couple import couple
from graphprune.report.report import Report
from tests import blocks, clock

X = torch.randn(2, 3, 16, 16)


class Counted(Timer):
    """Stands in for the clock: the multiply-accumulates of 16 channels at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def seconds(self, key: str, prepare: Any, device: torch.device) -> float:
        call = prepare()
        call()
        self.calls.append(key)
        if "conv2d" not in key:
            return 0.0
        out, inner, *kernel = call.args[1].shape
        whole = float(-(-out // 16) * 16 * -(-inner // 16) * 16)
        return whole * float(np.prod(kernel))

    def save(self) -> None:
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    clock.replace(monkeypatch, tmp_path)
    return tmp_path


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few lengths of each operation: every one takes a session of ONNX Runtime of its own."""
    monkeypatch.setattr("graphprune.costs.latency.cost.FRACTIONS", (1 / 2, 1.0))
    monkeypatch.setattr("graphprune.costs.latency.cost.PROBED", 1)


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(),
        nn.Conv2d(96, 128, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def test_the_table_is_exact_where_it_was_measured(net: nn.Module) -> None:
    deps = graphprune.analyze(net, X)
    cost = Latency(deps, Eager(), Counted())
    assert cost.step == 16
    for counts in ([64, 96, 128], [32, 48, 64], [16, 96, 128]):
        a, b, c = counts
        expected = 9 * (16 * a + a * b + b * c)
        assert cost(np.array(counts, dtype=float)) == expected
    full, half = np.array([64.0, 96, 128]), np.array([64.0, 48, 128])
    assert cost.change(full, 1, 48.0) == pytest.approx(cost(half) - cost(full))


def test_operations_of_the_same_shapes_are_measured_once(cache: Path) -> None:
    net = nn.Sequential(*(nn.Conv2d(32, 32, 3, padding=1) for _ in range(6)))
    deps = graphprune.analyze(net, torch.randn(2, 32, 8, 8))
    timer = Timer()
    Latency(deps, Eager(), timer)
    assert 0 < timer.measured < 60
    again = Timer()
    Latency(deps, Eager(), again)
    assert again.measured == 0
    (path,) = cache.iterdir()
    assert len(json.loads(path.read_text())) == timer.measured


def test_a_broken_cache_is_measured_anew(cache: Path) -> None:
    Timer().save()
    (path,) = cache.iterdir()
    path.write_text("{")
    timer = Timer()
    timer.seconds("relu", lambda: partial(torch.relu, torch.ones(3)), torch.device("cpu"))
    assert timer.measured == 1


def test_the_knapsack_crosses_plateaus_and_takes_what_saves_most() -> None:
    def cost(counts: np.ndarray) -> float:
        return float(-(-counts[0] // 32) * 10 + counts[1])

    found = knapsack(
        np.array([64.0, 64.0]),
        {i: np.arange(8.0, 64, 8) for i in range(2)},
        [np.append(0.0, np.cumsum(np.arange(64) / 64))] * 2,
        lambda counts, i, to: cost(counts) - cost(np.where(np.arange(2) == i, to, counts)),
        lambda counts: 60 - cost(counts),
        lambda counts: counts,
    )
    assert cost(found) <= 60
    assert found[0] in (32, 64)  # nothing is lost on the way to the next step


def _is_timed(report: Report) -> None:
    """Times are told, and there is less to do."""
    assert report.latency is not None and min(report.latency) > 0
    assert report.macs[1] < report.macs[0]


@pytest.mark.parametrize("name", ["residual", "dense", "attention", "llama", "shuffle"])
def test_any_graph_can_be_measured(name: str) -> None:
    build, inputs = blocks.BLOCKS[name]
    deps = graphprune.analyze(build(), inputs())
    cost = Latency(deps, Eager())
    full = np.array([group.size for group in deps.groups], dtype=np.float64)
    assert 0 < cost(np.ceil(full / 2)) < 10
    assert cost(full) > 0


def test_the_report_tells_measured_and_predicted(net: nn.Module) -> None:
    x = torch.randn(2, 3, 16, 16)
    plan = graphprune.plan(net, 0.5, "latency", example_inputs=x, compensate=False)
    _is_timed(plan.report)
    before, after = plan.report.latency
    assert plan.report.achieved == pytest.approx(1 - after / before)
    assert plan.report.predicted > 1
    assert "x measured" in str(plan.report)
    small = plan.apply()
    assert forward_seconds([net, small], ((X,), {}), Eager(), least=3)[0] > 0
    assert plan.as_dict()["of"] == "latency"


def test_one_sample_is_measured_where_one_is_given(net: nn.Module) -> None:
    one = ((X[:1],), {})
    deps = couple(open_model(net, one).program.graph)
    assert deps.source.inputs[0].shape[0] == 2  # how it was captured
    timer = Counted()
    Latency(deps, Eager(), timer, sizes=batch_sizes(deps, one))
    convolutions = [key for key in timer.calls if "conv2d" in key]
    assert convolutions
    assert all("float32[1, " in key for key in convolutions)


def test_factors_that_a_kernel_sees_as_one_length_are_one_variable() -> None:
    build, inputs = blocks.BLOCKS["attention"]
    deps = graphprune.analyze(build(), inputs())
    cost = Latency(deps, Eager(), Counted())
    linear = next(op for op in deps.source.ops if op.type == "aten.linear")
    assert len(cost._free(linear)) <= 2


def test_three_variables_are_taken_to_be_independent() -> None:
    grid = (np.array([1.0, 2.0]),) * 3
    rows = np.array([[0.5, 1.0], [0.25, 1.0], [1.0, 1.0]])
    table = Table((0, 1, 2), grid, rows, whole=8.0)
    assert table([2, 2, 2]) == 8
    assert table([1, 2, 2]) == 4
    assert table([1, 1, 1]) == 1
    assert table([1.5, 2, 2]) == 6


def test_the_operations_take_what_the_whole_model_takes(net: nn.Module) -> None:
    deps = graphprune.analyze(net, X)
    full = np.array([64.0, 96, 128])
    cost = Latency(deps, Eager(), Counted())
    half = cost(full / 2) / cost(full)
    cost.fit(3.0)
    assert cost(full) == pytest.approx(3.0)
    assert cost(full / 2) == pytest.approx(3.0 * half)


def test_what_a_backend_fuses_fills_what_the_products_leave(net: nn.Module) -> None:
    class Second(Counted):
        def seconds(self, key: str, prepare: Any, device: torch.device) -> float:
            return 1.0

    backend = Eager()
    backend.fuses = True
    cost = Latency(graphprune.analyze(net, X), backend, Second())
    full = np.array([64.0, 96, 128])
    cost.fit(4.0)  # three convolutions and the classifier
    assert cost(full) == pytest.approx(4.0)
    assert cost._joined.share == pytest.approx(0.0)
    cost.fit(5.0)
    assert cost._alone.share == pytest.approx(1.0)
    assert 0 < cost._joined.share < 1


def test_noise_does_not_pass_for_a_faster_model(
    small: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first choice seems far too fast, none may be left that removes nothing."""
    seconds = count(1)
    monkeypatch.setattr(
        aim,
        "forward_seconds",
        lambda models, *_: [1.0, min(0.1 * next(seconds), 0.6)][: len(models)],
    )
    plan = graphprune.plan(
        small, 0.4, "latency", example_inputs=torch.randn(1, 3, 64, 64), compensate=False
    )
    assert plan.report.macs[1] < plan.report.macs[0]


@pytest.mark.parametrize("calm", [2, 9], ids=["calm after a while", "busy for ever"])
def test_a_busy_machine_is_no_reason_to_refuse_a_ratio(
    small: nn.Module, calm: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table by which nothing saves time is measured anew where the machine was busy."""
    attempts = count(1)

    class Disturbed(Counted):
        attempt = next(attempts)

        def seconds(self, key: str, prepare: Any, device: torch.device) -> float:
            if self.attempt >= calm:
                return super().seconds(key, prepare, device)
            self.disturbed.add(key)
            return 1.0

        def forget(self) -> None:
            super().forget()
            self.attempt = next(attempts)

    monkeypatch.setattr(aim, "Timer", Disturbed)
    monkeypatch.setattr(aim, "forward_seconds", lambda models, *_: [1.0, 0.6][: len(models)])
    options = {"example_inputs": torch.randn(1, 3, 64, 64), "compensate": False}
    if calm == 2:
        plan = graphprune.plan(small, 0.4, "latency", **options)
        assert plan.report.macs[1] < plan.report.macs[0]
        return
    with pytest.raises(graphprune.GraphPruneError, match="too busy to measure latency") as caught:
        graphprune.plan(small, 0.4, "latency", **options)
    assert not isinstance(caught.value, graphprune.BudgetError)
    assert next(attempts) == 1 + aim.TABLE_ATTEMPTS + 1


def test_a_ratio_that_a_calm_machine_cannot_reach_is_refused(
    small: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flat(Counted):
        def seconds(self, key: str, prepare: Any, device: torch.device) -> float:
            return 1.0

    monkeypatch.setattr(aim, "Timer", Flat)
    with pytest.raises(graphprune.BudgetError):
        graphprune.plan(small, 0.4, "latency", example_inputs=X[:1], compensate=False)


@pytest.mark.usefixtures("coarse")
def test_onnx_runtime_measures_modules(small: nn.Module) -> None:
    x = torch.randn(1, 3, 64, 64)
    plan = graphprune.plan(
        small, 0.4, "latency", example_inputs=x, backend="onnxruntime", compensate=False
    )
    _is_timed(plan.report)
    assert isinstance(plan.apply(), nn.Sequential)


@pytest.mark.usefixtures("coarse")
def test_onnx_files_are_measured_in_onnx_runtime(small: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    save_model(small.eval(), ((torch.randn(2, 3, 64, 64),), {}), path)
    plan = graphprune.plan(path, 0.4, "latency", compensate=False)
    _is_timed(plan.report)
    assert "x measured" in str(plan.report)
    with pytest.raises(graphprune.GraphPruneError, match="an ONNX model runs in ONNX Runtime"):
        graphprune.plan(path, 0.4, "latency", backend="eager")


@pytest.mark.parametrize(
    "by", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow, id="by a C++ compiler")]
)
def test_compiled_modules_are_measured(monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=by))
    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64))
    x = torch.randn(64, 64)
    expected = net(x)
    monkeypatch.setattr(aim, "AIM_ROUNDS", 1)
    # No second choice has to be compiled.
    monkeypatch.setattr(aim, "MEASUREMENT_NOISE", 1.0)
    options = {"example_inputs": x, "backend": "compiled", "compensate": False}
    try:
        plan = graphprune.plan(net, 0.4, "latency", **options)
    except graphprune.GraphPruneError as error:
        if "torch.compile fails" not in str(error):
            raise
        pytest.skip("no compiler")
    _is_timed(plan.report)
    assert torch.equal(net(x), expected)
    assert net.training


def test_an_unknown_backend_is_refused(net: nn.Module) -> None:
    with pytest.raises(graphprune.GraphPruneError, match="no backend 'tensorrt': choose from auto"):
        graphprune.plan(net, 0.4, "latency", example_inputs=X, backend="tensorrt")


def test_where_less_work_is_faster_than_the_table_knows_it_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The table is wrong: it takes the last convolution for all the time, the clock the first."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 1, stride=8), nn.Flatten(),
        nn.Linear(256, 10),
    )  # fmt: skip

    class Wrong(Counted):
        def seconds(self, key: str, prepare: Any, device: torch.device) -> float:
            found = super().seconds(key, prepare, device)
            return found if ", 1, 1]@" in key else found * 1e-3

    def clock(models: list[nn.Module], inputs: Any, runs_in: Any) -> list[float]:
        return [1e-6 * model[0].weight.numel() for model in models]

    monkeypatch.setattr("graphprune.choice.aim.forward_seconds", clock)
    monkeypatch.setattr("graphprune.choice.aim.AIM_ROUNDS", 1)
    monkeypatch.setattr("graphprune.choice.aim.Timer", Wrong)
    options = {"example_inputs": X, "compensate": False}
    plan = graphprune.plan(net, 0.3, "latency", **options)
    monkeypatch.setattr("graphprune.choice.aim._twin", lambda *_: None)
    alone = graphprune.plan(net, 0.3, "latency", **options)
    assert plan.report.achieved > alone.report.achieved + 0.02
    assert plan.report.params[1] == pytest.approx(alone.report.params[1], rel=0.05)
    small = plan.apply()
    assert clock([net, small], None, None) == list(plan.report.latency)
    assert [row.kept for row in plan.report.groups] == [layer.out_channels for layer in small[:3]]
