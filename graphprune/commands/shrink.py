"""`graphprune shrink`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from graphprune.commands.options import AsJson, Force, Model, Planning, planning
from graphprune.commands.outputs import check_model
from graphprune.commands.printing import print_report, print_written, say

if TYPE_CHECKING:
    from graphprune.report.report import Report


@planning
def shrink(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help=".pt, .pt2 or .onnx")],
    asked: Planning,
    plan: Annotated[Path | None, typer.Option(help="also write the plan here")] = None,
    verify: Annotated[bool, typer.Option(help="check the result")] = True,
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
    else:
        made = asked.plan(model, verify)
        made.write(out)
        if plan is not None:
            made.save(plan)
        assert made.report is not None
        report = made.report
    print_report(report, as_json)
    print_written(out, report, as_json)
    if plan is not None:
        say(f"wrote {plan}", as_json)


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
    from graphprune.frontends.torch.saving import save_model
    from graphprune.recalibration import made_from
    from graphprune.report.made import reported

    if plan is not None:
        raise GraphPruneError("--plan: with several steps there is no single plan; leave it out")
    small = shrink_model(
        asked.opened(model), asked.ratio, asked.of, steps=steps.number, schedule=steps.schedule,
        state=steps.state, verify=verify, **asked.options(),
    )  # fmt: skip
    work = made_from(small)
    save_model(small, work.program.given or work.program.inputs, out)
    return reported(work)
