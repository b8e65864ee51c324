"""Doors for others: one file registers a pass, a criterion, a cost, a rule, a frontend."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune import GraphPruneError, cli, extensions, pipeline
from graphprune.costs import registry as costs
from graphprune.frontends import opening
from graphprune.importance import registry as criteria
from graphprune.rules import registry as rules

CODE = '''
import graphprune
from graphprune.costs import macs

class Told{n}(graphprune.Pass):
    """Say how many groups there are."""

    name = "told{n}"
    requires = ("deps",)

    def run(self, work):
        return self.unchanged(f"{{len(work.deps.groups)}} groups told")

@graphprune.criterion("last{n}")
def last(weight, dim):
    return -weight.new_ones(weight.shape[dim]).cumsum(0).double()

@graphprune.cost("energy{n}")
def energy(deps):
    return 4.6e-12 * macs(deps)

@graphprune.axis_rule("mine{n}.scale")
def scale(op):
    return "... -> ..."

@graphprune.frontend
class Boxed{n}:
    name = "a boxed module"

    def reads(self, model):
        return type(model) is dict and "boxed" in model

    def open(self, model, inputs, data, samples):
        from graphprune.frontends.opening import open_model
        return open_model(model["boxed"], inputs, data, samples)
'''
FACTORY = "from torch import nn\nnet = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 4))\n"
OPTIONS: dict[str, Any] = {"compensate": False, "verify": False}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to import from; what is registered meanwhile is forgotten afterwards."""
    tables: list[dict[str, Any]] = [
        costs._COSTS, criteria.CRITERIA, pipeline.PASSES, rules._RULES,
    ]  # fmt: skip
    kept, readers = [dict(table) for table in tables], list(opening._FRONTENDS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)
    opening._FRONTENDS[:] = readers


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


def run(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["graphprune", *args])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_what_a_file_registers_goes_by_name(folder: Path, tmp_path: Path) -> None:
    (folder / "own_a.py").write_text(CODE.format(n="a"))
    extensions.load_extension("own_a")
    passes = "couple,tolda,score,select,lower"
    plan = graphprune.plan(
        {"boxed": net()}, 0.5, "energya", importance="lasta", passes=passes, **OPTIONS
    )
    kept = plan.kept["0.weight"][0]
    assert kept is not None and kept.tolist() == list(range(16)), "the last ones go first"
    assert plan.of == "energya"
    assert plan.report is not None and "1 groups told" in str(plan.report)
    from graphprune.rules import is_known

    assert is_known("minea.scale")
    plan.save(tmp_path / "plan.json")
    loaded = graphprune.load_plan(tmp_path / "plan.json")
    assert loaded.as_dict() == plan.as_dict()
    assert loaded.pipeline is not None and "own_a:Tolda" in loaded.pipeline.names()
    assert loaded.apply(net())[0].out_features == 16


def test_the_command_line_takes_them_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "own_b.py").write_text(CODE.format(n="b"))
    (folder / "factory_b.py").write_text(FACTORY)
    assert run(monkeypatch, "passes", "--extension", "own_b") == 0
    listed = capsys.readouterr().out
    assert "toldb    " in listed and "Say how many groups there are. (on request)" in listed
    assert "couple" in listed and "Find the coupled groups." in listed
    done = run(
        monkeypatch, "shrink", "factory_b:net", "-o", "small.pt", "--of", "energyb",
        "--importance", "own_b:last", "--passes", "couple,own_b:Toldb,score,select,lower,verify",
        "--extension", "own_b", "--plan", "plan.json",
    )  # fmt: skip
    assert done == 0, capsys.readouterr().err
    assert torch.load("small.pt", weights_only=False)[0].out_features == 16
    assert json.loads(Path("plan.json").read_text())["of"] == "energyb"
    assert run(monkeypatch, "verify", "factory_b:net", "--plan", "plan.json") == 0
    done = run(monkeypatch, "report", "factory_b:net", "--importance", "lastb", "--json",
               "--compensate", "off", "--ratios", "0=0.25", "--limits", "0=16,32")  # fmt: skip
    assert done == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["kept"] for row in report["groups"]] == [24]
    for wrong in (
        ("--passes", "couple,nonsense"), ("--passes", "own_b:last"), ("--ratios", "0"),
        ("--limits", "=3"), ("--importance", "own_b:nothing"), ("--extension", "no_such_mod"),
        ("--of", "watts"),
    ):  # fmt: skip
        assert run(monkeypatch, "report", "factory_b:net", *wrong) == 2, wrong
    errors = capsys.readouterr().err
    assert errors.count("error: ") == 7 and "Traceback" not in errors


def test_packages_bring_their_own(folder: Path) -> None:
    (folder / "own_c.py").write_text(CODE.format(n="c"))
    (folder / "own_d.py").write_text("raise ImportError('no such thing here')")
    info = folder / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[graphprune.extensions]\ngood = own_c\nbroken = own_d\n"
    )
    with pytest.warns(UserWarning, match="'broken' of others.*ImportError: no such thing here"):
        plan = graphprune.plan(net(), 0.5, "energyc", **OPTIONS)
    assert plan.of == "energyc"
    graphprune.plan(net(), 0.5, "energyc", **OPTIONS)  # once, and no second warning


def test_an_extension_that_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(GraphPruneError, match="cannot load extension 'no_such_mod'"):
        extensions.load_extension("no_such_mod")
