"""`graphprune report`."""

from __future__ import annotations

from graphprune.commands.options import AsJson, Model, Planning, planning
from graphprune.commands.printing import print_report


@planning
def report(model: Model, asked: Planning, as_json: AsJson = False) -> None:
    """Print what a plan would do; write nothing."""
    print_report(asked.plan(model, verify=False), as_json)
