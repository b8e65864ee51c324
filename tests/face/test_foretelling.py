"""How long work takes is told before it, while it goes on, and when it is stopped."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune import foretelling
from graphprune.compensation import calibration, forecast
from graphprune.core import progress as bars


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """Everything takes long: a machine that is a million times slower than it is thought to be."""
    monkeypatch.setattr(calibration, "slowness", lambda *_: 1e6)
    monkeypatch.setattr(foretelling, "_DOUBTFUL", 0.0)
    caplog.set_level(logging.INFO, "graphprune")
    return lambda: [text for text in caplog.messages if "takes about" in text]


def test_what_takes_long_is_told_beforehand_with_what_is_quicker(slow: Any) -> None:
    graphprune.plan(_net(), 0.5, compensate=True)
    (said,) = slow()
    assert said.startswith("Sequential: this takes about ")
    assert 'with effort="fast" about ' in said


@pytest.mark.parametrize(
    "work",
    [
        lambda net, x: graphprune.plan(net, 0.5, compensate=False),
        lambda net, x: graphprune.plan(net, 0.5, importance="l2", compensate=True),
        lambda net, x: graphprune.plan(net, 0.5, importance="taylor", compensate=False,
                                       data=[(x, torch.zeros(64, dtype=torch.long))]),
        lambda net, x: graphprune.sparsify(net, 0.5, data=x),
        lambda net, x: graphprune.sparsify(net, 0.5, importance="wanda", compensate=False, data=x),
        lambda net, x: graphprune.factor(net, 0.3, data=x),
        lambda net, x: graphprune.compact(net),
    ],
    ids=["uncompensated", "norms", "gradients", "sparsify", "wanda", "factor", "compact"],
)  # fmt: skip
def test_whatever_takes_long_says_so_once(slow: Any, work: Any) -> None:
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.Linear(32, 4))
    work(net, torch.randn(64, 8))
    assert len(slow()) == 1


def test_a_deployment_tells_the_sum_of_its_stages(
    slow: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    from graphprune.deploying import stages

    told: list[float] = []
    quick = {"effort": "fast"}
    monkeypatch.setattr(foretelling, "duration", lambda x: told.append(x) or f"{x}")
    for trains in (False, True):
        asked = 0.5, "params", quick
        run = stages.Stages(_net(), tmp_path, torch.randn(64, 8), None, asked, names=False)
        run.check(trains, trains)
        assert run.plan.report is not None
    assert len(slow()) == 2 and told[1] > 1.5 * told[0]


def test_what_layers_read_is_counted_by_how_many_read_it() -> None:
    from graphprune.sparsity.estimate import gathering, stepping
    from graphprune.sparsity.layers import find_layers
    from graphprune.sparsity.patterns import Pattern

    deps = graphprune.analyze(_net())
    layers = find_layers(deps, Pattern(), ()).layers
    assert gathering(deps, layers, 64) == pytest.approx(2 * gathering(deps, layers, 32))
    assert stepping(layers, 10, 512) > stepping(layers, 10, 0) > stepping(layers[:1], 10, 0)


def test_a_quick_way_is_not_offered_to_who_takes_it(slow: Any) -> None:
    graphprune.plan(_net(), 0.5, compensate=True, effort="fast")
    assert len(slow()) == 1 and "effort" not in slow()[0]


def test_nothing_is_told_where_nothing_is_known_or_little_is_to_be_done(
    slow: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphprune.plan(_net(), 0.5, compensate=False, verify=False, passes="couple, score, select")
    monkeypatch.undo()
    graphprune.plan(_net(), 0.5, compensate=True, effort="fast")
    assert slow() == []


def test_an_estimate_counts_what_is_asked_for() -> None:
    work = graphprune.plan(_net(), 0.5, compensate=False).live()
    program, deps = work.program, work.deps

    def whole(samples: int, effort: str, own: bool = False) -> float:
        found = forecast.forecast(program, deps, samples, effort, None, own)
        return found.making + found.weighing + found.solving + found.polishing

    assert whole(64, "fast") < whole(256, "balanced") < whole(1024, "best")
    assert whole(256, "balanced", own=True) < whole(256, "balanced")
    granted = forecast.forecast(program, deps, 256, "auto", 60.0, True)
    assert granted.weighing + granted.solving + granted.polishing == pytest.approx(60.0)


def test_a_run_is_timed_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    work = graphprune.plan(_net(), 0.5, compensate=False).live()
    ticks = iter([0.0, 1.0, 1.0, 1.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    slow = forecast.slowness(work.program, work.deps)
    assert slow == pytest.approx(0.5 / (forecast.seconds(work.deps, 2, 1) / 3))


def test_the_first_steps_tell_how_long_the_others_take(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter([0.0, 0.5, 2.0, 4.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO, "graphprune"), bars.progress("sweeping") as advance:
        advance(0.01)  # too early to tell
        advance(0.1)
        advance(0.2)
    assert caplog.messages == ["sweeping: about 20 s, by the speed of the first"]


def test_a_bar_tells_what_is_left_of_all() -> None:
    assert bars._left(0.5, 10.0, 0.0) == "about 10 s left"
    assert bars._left(0.5, 10.0, 300.0) == "about 5 min left"
    assert bars._left(0.0, 10.0, 300.0) == ""


def test_what_was_stopped_says_what_is_kept(tmp_path: Path) -> None:
    def stops(model: Any) -> float:
        raise KeyboardInterrupt

    def second(model: Any) -> float:
        calls.append(0)
        return stops(model) if len(calls) == 3 else 1.0

    calls: list[int] = []
    state = tmp_path / "sweep.json"
    given: dict[str, Any] = {"compensate": False, "state": state, "metric": second}
    with pytest.raises(KeyboardInterrupt, match=r"1 of 2 points are kept in .*sweep\.json"):
        graphprune.sweep(_net(), (0.3, 0.5), **given)
    assert len(graphprune.sweep(_net(), (0.3, 0.5), **given).points) == 2 and len(calls) == 5
    del calls[:]
    calls.append(0)
    with pytest.raises(KeyboardInterrupt, match="2 of 3 points are kept"):  # those of before
        graphprune.sweep(_net(), (0.7, 0.3, 0.5), **given)
    del calls[:]
    calls.append(0)
    with pytest.raises(KeyboardInterrupt, match="no point is finished yet, and nothing kept"):
        graphprune.sweep(_net(), (0.7,), **{**given, "state": tmp_path / "new.json"})


@pytest.mark.slow
def test_estimates_are_right_within_a_factor_of_three() -> None:  # others may use the machine
    vision = pytest.importorskip("torchvision")
    model = vision.models.mobilenet_v2().eval()
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
    plan = graphprune.plan(model, 0.3, compensate=True, effort="fast")
    plan.apply()
    work = plan.live()
    told = foretelling.estimated(work, graphprune.DEFAULT, "fast") or 0.0
    told *= forecast.slowness(work.program, work.deps)
    took = sum(row.seconds for row in work.rows)
    assert took / 3 < told < took * 3


def test_models_that_are_captured_in_parts_are_told_too(slow: Any) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
            self.second = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            found: torch.Tensor = self.second(x if float(x.sum()) > 0 else -x)
            return found

    x = torch.randn(4, 8)
    plan = graphprune.plan(Branching(), 0.3, example_inputs=x, compensate=True, effort="fast")
    assert plan.live().program.original is not None
    (said,) = slow()
    assert said.startswith("Branching: this takes about ")
