"""What commands print."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from graphprune.plans import Plan


def print_report(made: Plan[Any], as_json: bool) -> None:
    """Print the report of a plan; data on stdout and the text on stderr where asked for."""
    from graphprune.report.report import show

    assert made.report is not None
    show(made.report, console(stderr=as_json))
    if as_json:
        typer.echo(json.dumps(made.report.as_dict()))


def console(stderr: bool) -> Console:
    """Where text for people goes."""
    from rich.console import Console

    return Console(stderr=stderr)
