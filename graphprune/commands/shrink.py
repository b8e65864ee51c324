"""`graphprune shrink`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from graphprune.commands.options import (
    AsJson,
    Force,
    Model,
    Out,
    PlanFile,
    Planning,
    Verify,
    planning,
)
from graphprune.commands.outputs import check_model
from graphprune.commands.printing import hand_over, print_report, print_written

if TYPE_CHECKING:
    from graphprune.report.report import Report


@planning
def shrink(
    model: Model,
    out: Out,
    asked: Planning,
    plan: PlanFile = None,
    verify: Verify = True,
    steps: Annotated[int, typer.Option(min=1, help="shrink in so many steps")] = 1,
    schedule: Annotated[
        str, typer.Option(help="how the fraction grows: polynomial, linear or exponential")
    ] = "polynomial",
    state: Annotated[
        Path | None, typer.Option(help="with --steps: a file to go on from after an interruption")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a model smaller and write it."""
    check_model(model, asked.weights, out, plan, force)
    if steps > 1:
        report = _in_steps(model, asked, out, plan, verify, _Steps(steps, schedule, state))
        print_report(report, as_json)
        print_written(out, report, as_json)
    else:
        hand_over(asked.plan(model, verify), out, plan, as_json)


class _Steps(NamedTuple):
    number: int
    schedule: str
    state: Path | None


def _in_steps(
    model: str, asked: Planning, out: Path, plan: Path | None, verify: bool, steps: _Steps
) -> Report:
    """Shrink step by step and write the result; the report is that of the last step."""
    from graphprune.api import shrink as shrink_model
    from graphprune.core.errors import GraphPruneError
    from graphprune.exporting import write_module
    from graphprune.recalibration import made_from
    from graphprune.report.made import reported

    if plan is not None:
        raise GraphPruneError("--plan: with several steps there is no single plan; leave it out")
    small = shrink_model(
        asked.opened(model), asked.ratio, asked.of, steps=steps.number, schedule=steps.schedule,
        state=steps.state, verify=verify, **asked.options(),
    )  # fmt: skip
    work = made_from(small)
    write_module(small, work.program.given or work.program.inputs, out)
    return reported(work)
