"""The data of every command that has `--json` are those that the documentation lists."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from graphprune import cli

DOCS = Path(__file__).parent.parent.parent / "docs"
NET = "nets_as_data:net"
QUICK = ["--compensate", "off"]
_FIELDS = re.compile(r"`([a-z0-9_]+)`")

Run = Callable[..., Any]


def _documented(page: str, heading: str) -> set[str]:
    """Names in the first column of a table."""
    text = (DOCS / page).read_text()
    rows = text[text.index(f"| {heading} |") :].splitlines()[2:]
    table = rows[: next((i for i, row in enumerate(rows) if not row.startswith("|")), len(rows))]
    return {name for row in table for name in _FIELDS.findall(row.split("|")[1])}


REPORT = _documented("reports.md", "field") - {"schema"}
SENSITIVITY = _documented("reports.md", "of a sensitivity")
SWEEP = _documented("reports.md", "of a sweep")
DEPLOY = _documented("command-line.md", "of `deploy`")
QUANTISE = _documented("command-line.md", "of `quantise`")
INSPECT = _documented("command-line.md", "of `inspect --json FILE`")

WANTED: dict[str, tuple[list[str], set[str]]] = {
    "shrink": ([NET, *QUICK, "-o", "small.pt"], REPORT),
    "compact": ([NET, "-o", "compact.pt"], REPORT),
    "factor": ([NET, *QUICK, "--ratio", "0.2", "-o", "thin.pt"], REPORT),
    "sparsify": ([NET, *QUICK, "-o", "sparse.pt"], REPORT),
    "deploy": ([NET, *QUICK, "-o", "deployed.onnx"], DEPLOY),
    "quantise": (["net.onnx", "-o", "int8.onnx"], QUANTISE),
    "report": ([NET, *QUICK], REPORT),
    "verify": ([NET, "--plan", "plan.json"], REPORT),
    "inspect": ([NET], INSPECT),
    "sensitivity": ([NET, *QUICK], SENSITIVITY),
    "sweep": ([NET, *QUICK, "--at", "0.3", "--by", "width,rank", "--bits", "32,8"], SWEEP),
}
"""What each command is tried with, and the fields that it must print."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    (tmp_path / "nets_as_data.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(),\n"
        "                         nn.Linear(32, 4))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(*words: str) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["graphprune", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        shown = capsys.readouterr()
        assert not stop.value.code, shown.err
        return shown.out

    return call


def test_every_command_with_data_is_tried() -> None:
    told = {c.__name__ for c in cli.COMMANDS if "as_json" in inspect.signature(c).parameters}
    assert told == set(WANTED)


@pytest.mark.parametrize("command", WANTED)
@pytest.mark.filterwarnings("ignore")
def test_data_are_what_the_documentation_lists(command: str, run: Run) -> None:
    words, fields = WANTED[command]
    if command in ("deploy", "quantise"):
        pytest.importorskip("onnxruntime")
    if command == "quantise":
        run("shrink", NET, *QUICK, "-o", "net.onnx")
    if command == "verify":
        run("shrink", NET, *QUICK, "-o", "first.pt", "--plan", "plan.json")
    asked = ["--json", "-"] if command == "inspect" else ["--json"]
    found = json.loads(run("--quiet", command, *words, *asked))
    assert found.pop("schema") >= 1
    assert set(found) == fields
    if command == "sweep":
        names = _FIELDS.findall((DOCS / "reports.md").read_text().partition("| `points` |")[2])
        held = found["points"][0].keys()
        assert set(names[: len(held)]) == set(held)
        assert all(len(point) == 3 for point in found["pareto"])
    if command == "deploy":
        row = (DOCS / "command-line.md").read_text().partition("| `stages` |")[2].splitlines()[0]
        assert set(_FIELDS.findall(row)) == set(found["stages"][0])
