"""A smoke run of the comparison of groups."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_same_groups_both_ways() -> None:
    command = [sys.executable, "tools/bench_onnx.py", "--groups", "mobilenet_v3_small"]
    found = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert "mobilenet_v3_small | identical | identical" in found.stdout
