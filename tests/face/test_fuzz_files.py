"""Wherever a caller lets something be written: a whole file there, or an error of ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import nn
from typer.main import get_command
from typer.testing import CliRunner

import graphprune
from graphprune import GraphPruneError
from graphprune.cli import app
from tests.face.test_fuzz import BUDGETS, LAYERS, ODD, QUIET, dense
from tests.frontends.onnx.exports import normal, two_layers

pytest.importorskip("onnxruntime")

PARTS = 10
GIVEN, FLAG = "given.onnx", "(takes no value)"
PARSED: Any = get_command(app)
NAMES = [
    "new.onnx", "new.onnx", "new.onnx", "new.json", "new.pt", "new.pt2", "new.txt", "new",
    "old.onnx", "old.json", "old.pt", GIVEN, "no/new.onnx", "old.onnx/new.onnx", "folder.onnx",
    "", ".", "..", "a\0b.onnx", "\ud800.onnx", f"{300 * 'n'}.onnx", f"{250 * 'n'}.onnx", " .onnx",
]  # fmt: skip
PLACES = st.one_of(st.sampled_from(NAMES), st.sampled_from(NAMES), ODD)
DEPLOYING: dict[str, st.SearchStrategy[Any]] = {
    "int8": st.sampled_from([True, False, "auto", "static", "dynamic", "weights", "x", 8, None]),
    "names": st.sampled_from([True, False, 1, None]),
    "budget": BUDGETS,
    "recover": st.sampled_from([True, {}, {"epochs": -1}, {"epoch": 1}, 3]),
    "metric": st.sampled_from([lambda predict: 1.0, lambda predict: predict(), 3]),
    "folder": PLACES,
    "data": st.sampled_from([normal(32, 8), normal(2, 8), normal(1, 8), normal(4, 7), "x", []]),
    "keep": st.lists(LAYERS, max_size=2),
}
QUANTISING: dict[str, st.SearchStrategy[Any]] = {
    "kind": st.sampled_from(["static", "dynamic", "weights", "auto", "x", None]),
    "names": st.sampled_from([True, False, None]),
    "samples": st.sampled_from([2, 64, 1, "x"]),
}
OPTIONS: dict[str, st.SearchStrategy[str]] = {
    "--ratio": st.sampled_from(["0.3", "0.5", "0.99", "2", "-1", "x", "nan", ""]),
    "--budget": st.sampled_from(["macs=0.3", "params=0.2", "watts=0.1", "macs", "macs=", "=0.1"]),
    "--of": st.sampled_from(["macs", "params", "memory", "x"]),
    "--effort": st.sampled_from(["fast", "0.1", ".", "²", "x", ""]),
    "--round-to": st.sampled_from(["auto", "2", "²", "0", "-1"]),
    "--ratios": st.sampled_from(["w1=0.5", "*=0.2", "w1=x", "nowhere=0.1", "w1=0.1,0.2"]),
    "--limits": st.sampled_from(["w1=4", "w1=.2,.8", "w1=9,2", "w1"]),
    "--keep": st.sampled_from(["w1", "w2", "nowhere", "*"]),
    "--pattern": st.sampled_from(["2:4", "x"]),
    "--plan": st.sampled_from(["plan.json", "old.json", "no/plan.json", GIVEN]),
    "--html": st.sampled_from(["page.html", "page.txt", "no/page.html"]),
    "--kind": st.sampled_from(["dynamic", "weights", "x"]),
    "--data": st.sampled_from(["data.npy", "nowhere.npy", GIVEN, "."]),
    "--compensate": st.sampled_from(["off", "on", "x"]),
    **{flag: st.just(FLAG) for flag in ("--int8", "--force", "--json", "--no-verify")},
}
COMMANDS = ["shrink", "compact", "factor", "sparsify", "deploy", "quantise", "report", "inspect"]


@st.composite
def writings(draw: st.DrawFn) -> tuple[str, Any, dict[str, Any]]:
    call = draw(st.sampled_from(["write", "save", "report", "steps", "deploy", "quantise"]))
    usual = {"deploy": DEPLOYING, "quantise": QUANTISING}.get(call, {"budget": BUDGETS})
    names = draw(st.lists(st.sampled_from(sorted(usual)), max_size=3, unique=True))
    return call, draw(PLACES), {name: draw(usual[name]) for name in names}


@st.composite
def lines(draw: st.DrawFn) -> tuple[str, Any, list[str]]:
    command = draw(st.sampled_from(COMMANDS))
    known = {name for option in PARSED.commands[command].params for name in option.opts}
    usual = sorted(OPTIONS.keys() & {*known, "--no-verify"})
    names = draw(st.lists(st.sampled_from(usual), max_size=3))
    out = draw(st.sampled_from([name for name in NAMES if "\ud800" not in name]))
    words = [word for name in names for word in (name, draw(OPTIONS[name]))]
    return command, out, [word for word in words if word != FLAG]


def called(call: str, place: Any, options: dict[str, Any]) -> None:
    """Write from Python; the model that was given is what it was."""
    as_module = call == "steps" or str(place).endswith((".pt", ".pt2"))
    model: Any = dense() if as_module else two_layers()
    before = contents(model)
    ratio = None if "budget" in options else 0.5
    try:
        if call == "deploy":
            given = {"compensate": False, "int8": False, **options}
            graphprune.deploy(model, ratio, out=place, **given)
        elif call == "quantise":
            graphprune.quantise(model, normal(32, 8), out=place, **options)
        elif call == "steps":
            graphprune.shrink(model, ratio, steps=2, state=place, compensate=False, **options)
        else:
            plan = graphprune.plan(model, ratio, compensate=False, **options)
            assert plan.report is not None
            writes: dict[str, Callable[[Any], None]] = {
                "write": plan.write, "save": plan.save, "report": plan.report.save,
            }  # fmt: skip
            writes[call](place)
    finally:
        assert contents(model) == before


def contents(model: Any) -> list[bytes]:
    if isinstance(model, nn.Module):
        return [x.numpy().tobytes() for x in model.state_dict().values()]
    return [model.SerializeToString()]


def seen(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def is_whole(path: Path) -> bool:
    """Whether what reads such a file reads this one."""
    if path.suffix == ".onnx":
        onnx.checker.check_model(onnx.load(path))
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".pt":
        torch.load(path, weights_only=False)
    elif path.suffix == ".pt2":
        torch.export.load(path)
    return path.stat().st_size > 0


@contextmanager
def watched() -> Iterator[Path]:
    """A folder to write in: what is written is whole; where something fails, nothing is."""
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.chdir(folder)
        Path(GIVEN).write_bytes(two_layers().SerializeToString())
        np.save("data.npy", normal(32, 8))
        for suffix in ("onnx", "json", "pt"):
            Path(f"old.{suffix}").write_text("old")
        Path("folder.onnx").mkdir()
        before = seen(folder)
        try:
            yield folder
        except GraphPruneError as error:
            assert str(error)
            kept = {name: held for name, held in seen(folder).items() if name in before}
            assert kept == before
            left = sorted(name for name in seen(folder) if name not in before)
            assert not [name for name in left if Path(name).name.startswith(".")]
            assert all(is_whole(folder / name) for name in left if (folder / name).is_file())
        else:
            after = seen(folder)
            changed = [name for name, held in after.items() if held != before.get(name)]
            assert all(is_whole(folder / name) for name in changed if (folder / name).is_file())


def write(case: tuple[str, Any, dict[str, Any]]) -> None:
    with watched():
        called(*case)


def command(case: tuple[str, Any, list[str]]) -> None:
    name, out, words = case
    with watched() as folder:
        before = seen(folder)
        outputs = [] if name in ("report", "inspect") else ["-o", out]
        result = CliRunner().invoke(app, [name, GIVEN, *outputs, *words])
        if result.exception is None or isinstance(result.exception, SystemExit):
            if result.exit_code or "--force" not in words:
                assert {k: v for k, v in seen(folder).items() if k in before} == before
            return
        raise result.exception


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(writings())
def test_what_is_written_is_whole_or_not_there(case: Any) -> None:
    write(case)


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(lines())
def test_what_a_command_writes_is_whole_or_not_there(case: Any) -> None:
    command(case)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_a_thousand_writings_are_whole_or_not_there(part: int) -> None:
    """New ones each day: the seeds follow the date."""

    @seed(date.today().toordinal() * PARTS + part)
    @settings(max_examples=50, deadline=None, database=None, suppress_health_check=QUIET)
    @given(writings(), lines())
    def run(written: Any, line: Any) -> None:
        write(written)
        command(line)

    run()
