"""The script, as a user starts it: from any directory, without the package installed."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "inspect_deps.py"
FACTORY = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "factory_for_tool.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def start(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    """Run the script as `python tools/inspect_deps.py ARGS` does, in this process."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *args])
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_it_prints_groups_and_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start(monkeypatch, "factory_for_tool:net") == 0
    printed = capsys.readouterr()
    assert "group 0: 16 indices\n    0.weight[0], 0.bias[0], 2.weight[1]\n" in printed.out
    assert printed.err == ""


def test_it_writes_every_view(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    views = ("--dot", "a.dot", "--graphml", "a.graphml", "--json", "a.json")
    more = ("--input-size", "3,6", "--why", "0", "2")
    assert start(monkeypatch, "factory_for_tool:net", *more, *views) == 0
    printed = capsys.readouterr()
    assert "aten.relu" in printed.out and "wrote a.graphml" in printed.err
    assert (folder / "a.dot").read_text().startswith("graph ")
    assert "0.weight[0]" in nx.read_graphml(folder / "a.graphml")
    sizes = {n["name"]: n["size"] for n in json.loads((folder / "a.json").read_text())["nodes"]}
    assert sizes["linear[0]"] == 3, "the batch that --input-size asks for"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("factory_for_tool:net", "--layer", "9"), "no layer is called '9'"),
        (("factory_for_tool:net", "--dot", "nowhere/a.dot"), "cannot write nowhere/a.dot"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    folder: Path,
    args: tuple[str, ...],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert start(monkeypatch, *args) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    _is_one_line(printed.err, says)


def test_a_process_of_its_own_finds_the_package(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "nowhere.pt"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    _is_one_line(done.stderr, "nowhere.pt")


def _is_one_line(printed: str, says: str) -> None:
    (line,) = printed.splitlines()
    assert line.startswith("error: ")
    assert says in line
