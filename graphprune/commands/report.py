"""`graphprune report`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from graphprune.commands.options import AsJson, Force, Model, Planning, planning
from graphprune.commands.printing import print_report, say


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
    from graphprune.core.errors import GraphPruneError
    from graphprune.core.files import check_target

    if html is not None and check_target(html, (".html",)).exists() and not force:
        raise GraphPruneError(f"{html} exists: pass --force to replace it")
    made = asked.plan(model, verify=html is not None)
    if html is not None:
        made.apply()
    assert made.report is not None
    print_report(made.report, as_json)
    if html is not None:
        made.report.save(html, command=shlex.join(["graphprune", *sys.argv[1:]]))
        say(f"wrote {html}", as_json)
