"""What a smaller file says about itself: plan and report in its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from torch import nn

import graphprune
from graphprune.core.errors import GraphPruneError
from graphprune.frontends.onnx import notes, write
from tests.frontends.onnx.exports import two_layers


def _notes(model: ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _wide() -> ModelProto:
    """A model with notes of its own, and some that an earlier version left."""
    model: ModelProto = two_layers(hidden=64)
    model.metadata_props.add(key="author", value="somebody")
    model.metadata_props.add(key="graphprune.version", value="0")
    return model


@pytest.fixture(scope="module")
def plan() -> Any:
    return graphprune.plan(_wide(), 0.5, compensate=False)


def test_a_file_tells_what_was_done(plan: Any) -> None:
    small = plan.apply()
    found = _notes(small)
    (group,) = plan.groups
    assert list(found)[:4] == [
        "author",
        "graphprune.version",
        "graphprune.done",
        "graphprune.groups",
    ]
    assert len(small.metadata_props) == len(found), "notes of an earlier run are replaced"
    assert found["graphprune.version"] == graphprune.__version__
    assert found["graphprune.groups"] == f"{group.name}: 64 -> {len(group.keep)}"
    assert found["graphprune.done"].startswith(plan.report.model)
    assert sum(map(len, found.values())) < 3000
    onnx.checker.check_model(small)


def test_a_module_that_is_written_as_a_file_tells_it_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
    path = tmp_path / "small.onnx"
    plan = graphprune.plan(net, 0.5, compensate=False)
    plan.write(path)
    assert _notes(onnx.load(path))["graphprune.done"] == plan.report.sentence()
    report, small = graphprune.report_of(path), graphprune.load_plan(path).apply(net)
    assert report.groups[0].kept == small[0].out_features == len(plan.groups[0].keep)


def test_plan_and_report_come_back(plan: Any, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    plan.write(path)
    small = plan.apply()
    for held in (path, str(path), small):
        again = graphprune.load_plan(held)
        assert again.as_dict() == plan.as_dict()
        report = graphprune.report_of(held)
        for name in ("params", "macs", "asked", "achieved", "locks", "agreement", "verification"):
            assert getattr(report, name) == getattr(plan.report, name), name
        assert report.bytes == plan.report.bytes == (plan.report.bytes[0], path.stat().st_size)
        assert "parameters" in str(report)
    assert graphprune.load_plan(path).apply(_wide()).SerializeToString() == path.read_bytes()


def test_what_holds_no_plan_says_so(plan: Any, tmp_path: Path) -> None:
    for ask in (graphprune.load_plan, graphprune.report_of):
        with pytest.raises(GraphPruneError, match=r"holds no (plan|report) of graphprune"):
            ask(two_layers())
    small = plan.apply()
    for entry in small.metadata_props:
        if entry.key == "graphprune.plan":
            entry.value = entry.value[:40]
    with pytest.raises(GraphPruneError, match="plan is damaged"):
        graphprune.load_plan(small)


def test_where_nothing_goes_nothing_is_said() -> None:
    model = _wide()
    small = graphprune.shrink(model, 0.0, compensate=False)
    assert _notes(small) == _notes(model)


def test_a_note_too_long_for_its_model_is_left_out(
    plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "_LEAST", 100)
    small = plan.apply()
    assert _notes(small)["graphprune.plan"].startswith("left out: ")
    with pytest.raises(GraphPruneError, match=r"does not hold its plan, .*left out"):
        graphprune.load_plan(small)


def test_notes_do_not_make_a_file_too_large(
    plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = plan.apply()
    del small.metadata_props[1:]  # all but the model's own
    bare = small.ByteSize()
    monkeypatch.setattr("graphprune.frontends.onnx.notes.LARGEST", bare + 120)
    monkeypatch.setattr("graphprune.frontends.onnx.stored.LARGEST", bare + 120)
    monkeypatch.setattr(write, "LARGEST", bare + 120)
    path = tmp_path / "small.onnx"
    plan.write(path)
    assert path.stat().st_size < bare + 120
    assert not (tmp_path / "small.onnx.data").exists()
    assert plan.apply().ByteSize() < bare + 120


def test_zeros_come_back_too() -> None:
    plan = graphprune.plan_sparsity(_wide(), 0.5, compensate=False)
    small = plan.apply()
    again = graphprune.load_plan(small)
    assert again.as_dict() == plan.as_dict()
    assert graphprune.report_of(small).sparsity == plan.report.sparsity


def test_scores_curves_and_a_choice_by_hand_work_on_files(tmp_path: Path) -> None:
    model = two_layers(hidden=16)
    plan = graphprune.plan(model, 0.25, compensate=False)
    (group,) = plan.groups
    assert len(group.scores) == 16 and (np.diff(group.curve) >= 0).all()
    group.keep = np.sort(group.scores.argsort()[-4:])
    small = plan.apply()
    w1 = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}["w1"]
    held = {t.name: onnx.numpy_helper.to_array(t) for t in small.graph.initializer}["w1"]
    np.testing.assert_array_equal(held, w1[:, group.keep])
    assert list(graphprune.load_plan(small).groups[0].keep) == list(group.keep)
    group.keep = [3, 16]
    with pytest.raises(GraphPruneError, match=r"keep holds 16: indices run from 0 to 15"):
        plan.write(tmp_path / "small.onnx")
    assert not (tmp_path / "small.onnx").exists()


def test_a_module_keeps_no_notes_and_still_leads_to_its_report() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    small = graphprune.shrink(net, 0.5, example_inputs=torch.randn(2, 8), compensate=False)
    assert graphprune.report_of(small).params[1] < graphprune.report_of(small).params[0]
