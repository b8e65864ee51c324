"""What a plan, a report and an analysis show: in a line, in a notebook, in a log, as data."""

from __future__ import annotations

import json
import logging
import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.core import progress as bars
from graphprune.core.errors import GraphPruneError, PlanError


class Residual(nn.Module):
    """Two convolutions of which one's output is the other's input, around a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.a, self.b = nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.b(torch.relu(self.a(x)))
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


class Halves(nn.Module):
    """Two groups that start in one dimension of one weight: each half of `a` has its own reader."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.a(x).chunk(2, 1)
        out: torch.Tensor = self.b(first) + self.c(second)
        return out


def test_two_groups_of_one_name_are_told_apart() -> None:
    x = torch.randn(2, 8)
    plan = graphprune.plan(Halves(), 0.4, compensate=False, example_inputs=x)
    plan.apply()
    found = graphprune.sensitivity(Halves(), 0.5, compensate=False, example_inputs=x)
    for names in ([row.name for row in plan.report.groups], [row.group for row in found.rows]):
        assert len(names) == 2 and len(set(names)) == 2
        assert all(name.startswith("a.weight[0]") for name in names)
        assert all(name in str(plan.report).replace("\n", "") for name in names)


@pytest.fixture
def plan() -> Any:
    return graphprune.plan(_net(), 0.5, compensate=False)


def test_one_line_each_and_a_table_in_notebooks(plan: Any) -> None:
    deps = graphprune.analyze(_net())
    for shown in (plan, plan.report, deps, plan.groups[0]):
        assert "\n" not in repr(shown) and len(repr(shown)) < 160
    assert repr(plan).startswith("Plan(Sequential: 49.5% of params removed, ")
    assert repr(deps).startswith("Dependencies(1 groups")
    for held in (plan, plan.report, deps):
        assert "<td>0.weight[0]</td>" in held._repr_html_()
    before, _, behind = plan.report._repr_html_().partition("<details>")
    assert "<p>pass couple" not in before and "<p>pass couple" in behind
    assert "pass couple" in str(plan.report)


def test_a_plan_that_was_loaded_shows_its_groups(plan: Any, tmp_path: Any) -> None:
    plan.save(tmp_path / "plan.json")
    loaded = graphprune.load_plan(tmp_path / "plan.json")
    assert "not applied yet" in repr(loaded)
    assert "<td>0.weight[0]</td>" in loaded._repr_html_()
    with pytest.raises(PlanError, match="has no scores"):
        _ = loaded.groups[0].curve


def test_scores_are_handed_out_and_a_choice_by_hand_is_applied(plan: Any) -> None:
    edit = plan.groups[0]
    assert edit.scores.shape == (32,)
    assert (np.diff(edit.curve) >= 0).all()
    assert set(edit.keep) == set(np.argsort(-edit.scores)[: len(edit.keep)])
    edit.keep = np.argsort(-edit.scores)[:5]
    assert plan.apply()[0].out_features == 5
    assert plan.report.groups[0].kept == 5
    edit.keep = [99]
    with pytest.raises(PlanError, match="indices run from 0 to 31"):
        plan.apply()


def test_a_model_leads_to_its_report() -> None:
    small = graphprune.shrink(_net(), 0.5, compensate=False)
    report = graphprune.report_of(small)
    assert report.agreement is not None and report.verification is not None
    with pytest.raises(GraphPruneError, match="not made by graphprune"):
        graphprune.report_of(_net())


def test_what_was_assumed_did_and_reached_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "graphprune"):
        graphprune.shrink(_net(), 0.5, compensate=False)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert said[0] == "inputs assumed, as none were given: 2 x 8 float32"
    assert "of params go (asked for 50.0%), from 1 of 1 groups" in said[1]
    assert "outputs keep" in said[2]


def test_random_generators_are_left_as_they_were() -> None:
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    net = _net()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    graphprune.shrink(net, 0.5, compensate=False)
    graphprune.shrink(net, 0.5, steps=2, compensate=False)
    graphprune.analyze(net)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()


def test_every_reason_is_told() -> None:
    deps = graphprune.analyze(Residual(), torch.randn(2, 3, 8, 8))
    lines = deps.why("a", "b")
    first, *parts = "\n".join(lines).split("\n\n")
    assert first.endswith("for 2 independent reasons:")
    assert len(parts) == 2
    assert any("relu" in part for part in parts)
    assert any("add" in part for part in parts)


def test_data_as_json_names_its_schema(plan: Any) -> None:
    plan.apply()
    found = json.loads(json.dumps(plan.report.as_dict()))
    assert found["schema"] == 1
    assert found["agreement"]["inputs"] == 16
    assert len(found["groups"][0]["curve"]) == 32


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a notebook shows."""
    shown: list[str] = []

    class Handle:
        def update(self, text: str) -> None:
            shown.append(text)

    def display(text: str, display_id: bool) -> Handle:
        shown.append(text)
        return Handle()

    module: Any = types.ModuleType("IPython.display")
    module.display, module.HTML = display, str
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(bars, "PATIENCE", -1.0)
    monkeypatch.setattr(bars, "_OFTEN", 0.0)
    monkeypatch.setattr(bars, "_bars", 0)
    yield shown


def test_a_bar_shows_in_a_notebook(cells: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Console:
        is_jupyter, is_terminal = True, False

    monkeypatch.setattr(bars, "Console", lambda stderr: Console())
    with bars.progress("weighing <channels>") as advance:
        advance(0.25)
        advance(0.5)
    assert "weighing &lt;channels&gt;: 25%" in cells[0]
    assert 'value="0.500"' in cells[1] and "left" in cells[1]
    assert cells[-1] == ""


def test_nothing_is_printed_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with bars.progress("weighing channels") as advance:
        advance(0.5)
    assert list(bars.tracked("abc", "spelling", 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
