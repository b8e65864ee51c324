"""Latency: tables of measured operations, the knapsack over them, and the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.axes import Axis
from graphprune.latency import Latency, Timer, forward_seconds
from graphprune.passes.knapsack import knapsack
from tests import blocks

X = torch.randn(2, 3, 16, 16)


class Counted(Timer):
    """Stands in for the clock: the multiply-accumulates of 16 channels at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def seconds(self, target: Any, args: Any, kwargs: Any) -> float:
        target(*args, **kwargs)
        self.calls.append(str(target))
        if "conv2d" not in str(target):
            return 0.0
        out, inner, *kernel = args[1].shape
        whole = float(-(-out // 16) * 16 * -(-inner // 16) * 16)
        return whole * float(np.prod(kernel))

    def save(self) -> None:
        pass


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPHPRUNE_CACHE", str(tmp_path))
    return tmp_path


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 96, 3, padding=1), nn.ReLU(),
        nn.Conv2d(96, 128, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def test_the_table_is_exact_where_it_was_measured(net: nn.Module) -> None:
    deps = graphprune.analyze(net, X)
    cost = Latency(deps, Counted())
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
    Latency(deps, timer)
    assert 0 < timer.measured < 60
    again = Timer()
    Latency(deps, again)
    assert again.measured == 0
    (path,) = cache.iterdir()
    assert len(json.loads(path.read_text())) == timer.measured


def test_a_broken_cache_is_measured_anew(cache: Path) -> None:
    Timer().save()
    (path,) = cache.iterdir()
    path.write_text("{")
    timer = Timer()
    timer.seconds(torch.ops.aten.relu.default, (torch.ones(3),), {})
    assert timer.measured == 1


def test_the_knapsack_crosses_plateaus_and_takes_what_saves_most() -> None:
    def cost(counts: np.ndarray) -> float:
        return float(-(-counts[0] // 32) * 10 + counts[1])

    found = knapsack(
        np.array([64.0, 64.0]),
        {i: np.arange(8.0, 64, 8) for i in range(2)},
        [(np.arange(64) + 0.5) / 64] * 2,
        lambda counts, i, to: cost(counts) - cost(np.where(np.arange(2) == i, to, counts)),
        lambda counts: 60 - cost(counts),
        lambda counts: counts,
    )
    assert cost(found) <= 60
    assert found[0] in (32, 64)  # nothing is lost on the way to the next step


@pytest.mark.parametrize("name", ["residual", "dense", "attention", "llama", "shuffle"])
def test_any_graph_can_be_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.latency.timing._FEWEST", 1)
    monkeypatch.setattr("graphprune.latency.timing._ENOUGH", 0.0)
    build, inputs = blocks.BLOCKS[name]
    deps = graphprune.analyze(build(), inputs())
    cost = Latency(deps)
    full = np.array([group.size for group in deps.groups], dtype=np.float64)
    assert 0 < cost(np.ceil(full / 2)) < 10
    assert all(isinstance(leaf, Axis) for leaf in cost._leaves)


def test_the_report_tells_measured_and_predicted(net: nn.Module) -> None:
    plan = graphprune.plan(net, 0.5, "latency", example_inputs=torch.randn(2, 3, 32, 32))
    before, after = plan.report.latency
    assert 0 < after < before
    assert plan.report.achieved == pytest.approx(1 - after / before)
    assert plan.report.predicted > 1
    assert "x measured" in str(plan.report)
    small = plan.apply()
    assert forward_seconds([net, small], ((X,), {}), 3)[0] > 0
    assert plan.as_dict()["of"] == "latency"
