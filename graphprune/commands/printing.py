"""What commands print."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from graphprune.core.progress import be_silent

if TYPE_CHECKING:
    from rich.console import Console

    from graphprune.plans import Plan
    from graphprune.quantising.quantised import Quantised
    from graphprune.report.report import Report

_WIDE = 10_000  # characters of a line that is never broken

_quiet = False


def be_quiet(wanted: bool) -> None:
    """Whether nothing is printed from now on but data and errors."""
    global _quiet
    _quiet = wanted
    be_silent(wanted)


def command_line() -> str:
    """The command as it was typed."""
    return shlex.join(["graphprune", *sys.argv[1:]])


def print_report(report: Report, as_json: bool, int8: Quantised | None = None) -> None:
    """Print a report; data on stdout and the text on stderr where asked for.

    Args:
        report: The report.
        as_json: Whether data are asked for.
        int8: What became of the model in int8, where it did: `int8` of the data.
    """
    from graphprune.report.text import show

    show(report, console(stderr=as_json))
    if int8 is not None:
        say(str(int8), as_json)
    if as_json:
        told = report.as_dict()
        typer.echo(json.dumps(told if int8 is None else {**told, "int8": int8.as_dict()}))


def print_written(out: Path, weighs: tuple[int, int], as_json: bool) -> None:
    """Say what was written, its bytes beside the original's, and how it is loaded."""
    before, after = (number / 1e6 for number in weighs)
    loads = {
        ".pt": f'torch.load("{out}", weights_only=False), which runs the code that it holds',
        ".pt2": f'torch.export.load("{out}").module()',
        ".onnx": f'onnxruntime.InferenceSession("{out}")',
    }
    text = f"wrote {out}, {before:.3g} -> {after:.3g} MB; load it with {loads[out.suffix]}"
    say(text, as_json)


def hand_over(made: Plan[Any], out: Path, plan: Path | None, as_json: bool) -> None:
    """Write the smaller model, and its plan where asked for, and say what became of it."""
    made.write(out)
    if plan is not None:
        made.save(plan)
    assert made.report is not None
    print_report(made.report, as_json)
    assert made.report.bytes is not None
    print_written(out, made.report.bytes, as_json)
    if plan is not None:
        say(f"wrote {plan}", as_json)


def say(text: str, as_json: bool) -> None:
    """Print a line as it is; on stderr where stdout is for data."""
    console(stderr=as_json).print(text, highlight=False, markup=False, soft_wrap=True)


def console(stderr: bool) -> Console:
    """Where text for people goes: on a terminal as wide as it is, else plain.

    In a file or a pipe tables have no boxes, and no line is broken.
    """
    from rich.console import Console
    from rich.table import Table

    class Plain(Console):
        def print(self, *objects: Any, **how: Any) -> None:
            for each in objects:
                if isinstance(each, Table):
                    each.box, each.title_justify = None, "left"
            super().print(*objects, **how)

    screen = Console(stderr=stderr, quiet=_quiet)
    return screen if screen.is_terminal else Plain(stderr=stderr, quiet=_quiet, width=_WIDE)
