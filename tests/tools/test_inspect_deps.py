"""The script, as a user starts it: from any directory, without the package installed."""

from __future__ import annotations

import json
import os
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("elsewhere")
    (path / "factory_for_tool.py").write_text(FACTORY)
    return path


def start(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a folder that is not the checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )


def test_it_prints_groups_and_nothing_else(folder: Path) -> None:
    done = start(folder, "factory_for_tool:net")
    assert done.returncode == 0, done.stderr
    assert "group 0: 16 indices\n    0.weight[0], 0.bias[0], 2.weight[1]\n" in done.stdout
    assert done.stderr == ""


def test_it_writes_every_view(folder: Path) -> None:
    done = start(
        folder,
        *("factory_for_tool:net", "--input-size", "3,6", "--why", "0", "2"),
        *("--dot", "a.dot", "--graphml", "a.graphml", "--json", "a.json"),
    )
    assert done.returncode == 0, done.stderr
    assert "aten.relu" in done.stdout
    assert (folder / "a.dot").read_text().startswith("graph ")
    assert "0.weight[0]" in nx.read_graphml(folder / "a.graphml")
    sizes = {n["name"]: n["size"] for n in json.loads((folder / "a.json").read_text())["nodes"]}
    assert sizes["linear[0]"] == 3, "the batch that --input-size asks for"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("resnt18",), "resnet18"),
        (("factory_for_tool:net", "--layer", "9"), "no layer is called '9'"),
        (("factory_for_tool:net", "--dot", "nowhere/a.dot"), "cannot write nowhere/a.dot"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    folder: Path, args: tuple[str, ...], says: str
) -> None:
    done = start(folder, *args)
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert says in lines[0]
