"""`graphprune report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphprune.commands.options import AsJson, Force, Model, Planning, planning
from graphprune.commands.outputs import check_new
from graphprune.commands.printing import command_line, print_report, say


@planning
def report(
    model: Model,
    asked: Planning,
    html: Annotated[
        Path | None, typer.Option(help="apply the plan in memory, and write a page here")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Print what a plan would do; write no model."""
    check_new(html, force, (".html",))
    made = asked.plan(model, verify=html is not None)
    if html is not None:
        made.apply()
    assert made.report is not None
    print_report(made.report, as_json)
    if html is not None:
        made.report.save(html, command=command_line())
        say(f"wrote {html}", as_json)
