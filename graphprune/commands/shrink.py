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
from graphprune.commands.printing import hand_over, print_report, print_written, say

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
        report, weighs = _in_steps(model, asked, out, plan, verify, _Steps(steps, schedule, state))
        if report is not None:
            say(f"step {steps} of {steps}, beside the model before it:", as_json)
            print_report(report, as_json)
        print_written(out, weighs, as_json)
    else:
        hand_over(asked.plan(model, verify), out, plan, as_json)


class _Steps(NamedTuple):
    number: int
    schedule: str
    state: Path | None


def _in_steps(
    model: str, asked: Planning, out: Path, plan: Path | None, verify: bool, steps: _Steps
) -> tuple[Report | None, tuple[int, int]]:
    """Shrink step by step and write the result.

    Returns:
        The last step's report, None where an earlier call had done all; bytes before and after.
    """
    from graphprune.api import shrink as shrink_model
    from graphprune.core.errors import GraphPruneError
    from graphprune.exporting import write_module
    from graphprune.frontends.torch.saving import tensor_bytes
    from graphprune.planning import opened_and_coupled
    from graphprune.recalibration import made_from, was_made
    from graphprune.report.made import reported

    if plan is not None:
        raise GraphPruneError("--plan: with several steps there is no single plan; leave it out")
    given, options = asked.opened(model), asked.options()
    small = shrink_model(
        given, asked.ratio, asked.of, steps=steps.number, schedule=steps.schedule,
        state=steps.state, verify=verify, **options,
    )  # fmt: skip
    work = made_from(small) if was_made(small) else None
    if work is None:
        program = opened_and_coupled(given, options["example_inputs"])[0].program
    else:
        program = work.program
    write_module(small, program.given or program.inputs, out)
    report = None if work is None else reported(work)
    return report, (tensor_bytes(given), tensor_bytes(small))
