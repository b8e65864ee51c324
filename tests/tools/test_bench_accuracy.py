"""A smoke run of the accuracy benchmark: a small network, really trained and really pruned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
METHODS = [
    "graphprune, 256 inputs",
    "graphprune, not compensated",
    "neuron merging*",
    "folding*",
    "GRAIL-like*, 256 inputs",
    "OBSPA-like*, 256 inputs",
]


pytestmark = pytest.mark.slow  # it trains a network


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("accuracy")
    command = [
        *(sys.executable, "tools/bench_accuracy.py", "digits", "--nets", "ResNet-BN"),
        *("--seeds", "1", "--epochs", "2", "--budgets", "params:0.5", "--tune", "1"),
        *("--results", str(folder / "cells.jsonl"), "--methods", *METHODS),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "GRAPHPRUNE_CACHE": str(folder)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    lines = (folder / "cells.jsonl").read_text().splitlines()
    return done.stdout, {cell["method"]: cell for cell in map(json.loads, lines)}


def test_compensation_beats_plain_removal(run: tuple[str, dict[str, dict[str, Any]]]) -> None:
    scores = {name: cell["scores"] for name, cell in run[1].items()}
    dense, kept = scores["dense"]["none"], scores["graphprune, 256 inputs"]["none"]
    assert dense > 70, "two epochs are far above chance"
    assert kept > dense - 5
    assert kept > scores["graphprune, not compensated"]["none"] + 10
    assert kept > scores["neuron merging*"]["none"]


def test_every_method_works_and_is_shown(run: tuple[str, dict[str, dict[str, Any]]]) -> None:
    table, cells = run
    for name in METHODS:
        assert cells[name]["failed"] == ""
        assert cells[name]["scores"].keys() == {"none", "synthetic", "real", "tuned"}
        assert f"| {name} | {cells[name]['scores']['none']:.1f} (" in table
