"""A smoke run of the accuracy benchmark: a small network, really trained and really pruned."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_compensation_beats_plain_removal() -> None:
    methods = ["graphprune, 256 images", "graphprune, not compensated"]
    command = [
        *(sys.executable, "tools/bench_accuracy.py", "--nets", "VGG-BN", "--seeds", "1"),
        *("--epochs", "2", "--budgets", "params:0.5", "--methods", *methods),
    ]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    pattern = r"\| VGG-BN \| ([\d.]+) \| graphprune, (.*?) \| ([\d.]+) \(([\d.]+)\) \|"
    rows = {name: (float(d), float(a)) for d, name, a, _ in re.findall(pattern, found.stdout)}
    dense, kept = rows["256 images"]
    _, plain = rows["not compensated"]
    assert dense > 70, "two epochs are far above chance"
    assert kept > dense - 5
    assert kept > plain + 10
