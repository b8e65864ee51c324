"""The demo, run once for all tests that look at it."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from graphprune import cli


@dataclass
class Shown:
    """One run of the demo from the command line: its folder, what it printed, its exit code."""

    folder: Path
    text: str
    code: int


@pytest.fixture(scope="session")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("demo") / "deeper" / "out"
    printed, code = StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setenv("COLUMNS", "100")
        patch.setattr(sys, "argv", ["graphprune", "demo", "--out", str(folder), "--epochs", "1"])
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Shown(folder, printed.getvalue(), code)
