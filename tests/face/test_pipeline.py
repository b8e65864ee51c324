"""Pipelines: passes in order, as data, with conditions that are checked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import graphprune
from graphprune.core.errors import PassError, PlanError
from graphprune.core.keep import Keep
from graphprune.pipeline import PASSES, Outcome, Pass, Pipeline, Work

X = torch.randn(2, 8)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


@pytest.fixture(autouse=True)
def no_pass_stays() -> Iterator[None]:
    known = dict(PASSES)
    yield
    PASSES.clear()
    PASSES.update(known)


def _file() -> onnx.ModelProto:
    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.standard_normal(shape).astype("float32"), name)
        for name, shape in (("w1", (8, 32)), ("w2", (32, 4)))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, size])
        for name, size in (("x", 8), ("y", 4))
    )
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_the_default_pipeline_is_in_the_report(net: nn.Module) -> None:
    plan = graphprune.plan(net, 0.5, example_inputs=X, compensate=False)
    plan.apply()
    assert [row.name for row in plan.report.passes] == [step.name for step in graphprune.DEFAULT]
    assert all(row.seconds >= 0 for row in plan.report.passes)
    changed = {row.name for row in plan.report.passes if row.changed}
    assert {"select", "lower"} <= changed
    assert "compensate" not in changed
    assert "pass select (changed" in str(plan.report)


def test_a_plan_applied_twice_lists_each_pass_once(net: nn.Module) -> None:
    plan = graphprune.plan(net, 0.5, example_inputs=X, compensate=False)
    plan.apply()
    plan.apply()
    names = [row.name for row in plan.report.passes]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("kind", ["module", "file"])
def test_a_pass_of_ones_own_runs_on_modules_and_files(net: nn.Module, kind: str) -> None:
    class First(Pass):
        """Keep the first half of every group, whatever the scores say."""

        name = "first"
        requires = ("deps",)
        ensures = ("choice",)

        def run(self, work: Work) -> Outcome:
            edits = [Keep.of(g, np.arange(g.size // 2)) for g in work.deps.groups]
            work.take(edits, 0.5, "channels")
            return self.done(f"{len(edits)} groups halved")

    model = net if kind == "module" else _file()
    passes = ["couple", "first", "lower", "verify"]
    plan = graphprune.plan(model, example_inputs=X if kind == "module" else None, passes=passes)
    plan.apply()
    assert [list(edit.keep) for edit in plan.groups] == [list(range(16))]
    assert plan.report.verification.difference < 1e-4
    assert [row.note for row in plan.report.passes if row.name == "first"] == ["1 groups halved"]


def test_a_pass_is_registered_by_its_name(net: nn.Module) -> None:
    class Count(Pass):
        """Say how many groups there are."""

        name = "count"
        requires = ("deps",)

        def run(self, work: Work) -> Outcome:
            return self.unchanged(f"{len(work.deps.groups)} groups")

    passes = ["couple", "count", "score", "select", "lower"]
    plan = graphprune.plan(net, 0.5, example_inputs=X, compensate=False, passes=passes)
    assert plan.report.passes[1].note == "1 groups"
    assert not plan.report.passes[1].changed


@pytest.mark.parametrize(
    ("passes", "says"),
    [
        (["score"], "'score' requires deps, which no pass before it ensures"),
        (["couple", "select"], "'select' requires scores"),
        (["couple", "sing"], "no pass 'sing': choose from agree, align, assume"),
        (["couple", "no.module:Pass"], "cannot import pass"),
        (["couple", "score", "select", "lower", "score"], "put it before 'lower'"),
    ],
)
def test_an_order_that_cannot_work_is_refused_before_the_work(passes: list[str], says: str) -> None:
    with pytest.raises(PassError, match=says):
        Pipeline(passes)


def test_conditions_are_checked_when_a_pass_runs(net: nn.Module) -> None:
    class Idle(Pass):
        """Promise scores, and find none."""

        name = "idle"
        requires = ("deps",)
        ensures = ("scores",)

        def run(self, work: Work) -> Outcome:
            return self.unchanged()

    with pytest.raises(PassError, match="'idle' promises scores, and did not find it"):
        graphprune.plan(net, 0.5, example_inputs=X, passes=["couple", "idle", "select"])

    class Mute(Pass):
        """Return nothing."""

        name = "mute"

        def run(self, work: Work) -> Outcome:
            return None  # type: ignore[return-value]

    with pytest.raises(PassError, match="'mute' returned None"):
        graphprune.plan(net, 0.5, example_inputs=X, passes=["mute", "couple", "score", "select"])


def test_scores_that_are_not_finite_break_a_promise(net: nn.Module) -> None:
    class Broken(Pass):
        """Put a score that is no number in the place of another, behind the check of scores."""

        name = "broken"
        requires = ("deps", "scores")
        ensures = ("scores",)

        def run(self, work: Work) -> Outcome:
            return self.unchanged()

        def after(self, work: Work) -> None:
            raise PassError("the promise is broken")

    passes = ["couple", "score", "broken", "select"]
    with pytest.raises(PassError, match="the promise is broken"):
        graphprune.plan(net, 0.5, example_inputs=X, compensate=False, passes=passes)


def test_a_pass_needs_a_name_of_its_own() -> None:
    with pytest.raises(PassError, match="has no name"):

        class Nameless(Pass):
            """No name."""

    with pytest.raises(PassError, match="there is a pass 'couple' already"):

        class Couple(Pass):
            """A name that is taken."""

            name = "couple"

    with pytest.raises(PassError, match="nothing is called 'truth'"):

        class Odd(Pass):
            """An odd condition."""

            name = "odd"
            requires = ("truth",)


def test_what_was_not_found_cannot_be_read(net: nn.Module) -> None:
    class Early(Pass):
        """Read scores too early."""

        name = "early"

        def run(self, work: Work) -> Outcome:
            return self.unchanged(str(work.scores))

    with pytest.raises(PassError, match="scores is not known yet; passes that find it: score"):
        graphprune.plan(net, 0.5, example_inputs=X, passes=["early", "couple", "score", "select"])


def test_plans_of_the_first_format_still_load(net: nn.Module, tmp_path: object) -> None:
    import json
    from pathlib import Path

    folder = Path(str(tmp_path))
    plan = graphprune.plan(net, 0.5, example_inputs=X, compensate=False)
    data = plan.as_dict()
    groups = [{k: e[k] for k in ("name", "size", "keep")} for e in data.pop("groups")]
    data.pop("edits")
    (folder / "old.json").write_text(json.dumps({**data, "format": 1, "groups": groups}))
    small = graphprune.load_plan(folder / "old.json").apply(net)
    assert small[0].out_features == plan.apply()[0].out_features
    (folder / "new.json").write_text(json.dumps({**data, "format": 3, "groups": groups}))
    with pytest.raises(PlanError, match="format 3; this version reads 1 and 2"):
        graphprune.load_plan(folder / "new.json")


def test_a_plan_changed_by_hand_is_what_is_applied(net: nn.Module) -> None:
    plan = graphprune.plan(net, 0.5, example_inputs=X, compensate=False)
    plan.groups[0].keep = np.array([3, 1, 2])
    small = plan.apply()
    assert torch.equal(small[0].weight, net[0].weight[[1, 2, 3]])
    assert plan.report.groups[0].kept == 3
    plan.groups[0].keep = None
    assert plan.apply()[0].out_features == 32
    plan.groups[0].keep = np.array([99])
    with pytest.raises(PlanError, match="holds 99"):
        plan.apply()
