"""ONNX files on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

import graphprune
from tests.face.test_cli import run
from tests.frontends.onnx.exports import normal, shapes, two_layers
from tests.frontends.onnx.exports import run as computed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    out = tmp_path / "model.onnx"
    onnx.save(two_layers(), out)
    return out


def test_shrink_and_verify(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, plan = str(path.parent / "small.onnx"), str(path.parent / "plan.json")
    call = ["shrink", str(path), "--ratio", "0.5", "-o", out, "--plan", plan, "--json"]
    assert run(monkeypatch, *call) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == "model.onnx"
    assert told["params"] == [192, 96]
    assert told["verification"]["lowered"] < 1e-5
    assert computed(out, x=normal(2, 8))[0].shape == (2, 3)
    assert run(monkeypatch, "verify", str(path), "--plan", plan) == 0
    assert "removal equals masking" in capsys.readouterr().out


def test_an_input_is_replaced_only_by_force(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = path.read_bytes()
    assert run(monkeypatch, "shrink", str(path), "-o", str(path)) == 2
    assert "is an input" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert run(monkeypatch, "shrink", str(path), "-o", str(path), "--force") == 0
    assert shapes(onnx.load(path))["w1"] == (8, 8)
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]


def test_inspect_names_nodes(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "inspect", str(path), "--why", "first", "second") == 0
    assert "Relu (relu)" in capsys.readouterr().out
    assert run(monkeypatch, "inspect", str(path)) == 0
    assert "group 0: 16 indices" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["shrink", "{}", "-o", "small.pt"], 2, "written as an .onnx file"),
        (["report", "{}", "--ratio", "0.999"], 3, "cannot be reached"),
        (["report", "{}", "--weights", "w.pt"], 2, "holds its own weights"),
        (["report", "none.onnx"], 2, "cannot read none.onnx"),
    ],
)
def test_exit_codes(
    arguments: list[str],
    code: int,
    message: str,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *(a.format(path) for a in arguments)) == code
    assert message in capsys.readouterr().err


def test_the_speed_up_is_measured(tmp_path: Path) -> None:
    onnx.save(two_layers(hidden=64), tmp_path / "model.onnx")
    plan = graphprune.plan(tmp_path / "model.onnx", 0.5)
    plan.apply()
    assert plan.report is not None and plan.report.latency is not None
    assert all(seconds > 0 for seconds in plan.report.latency)
    assert "x measured, with" in str(plan.report)
    plan = graphprune.plan(tmp_path / "model.onnx", 0.5, verify=False)
    plan.apply()
    assert plan.report is not None and plan.report.latency is None
