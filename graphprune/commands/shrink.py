"""`graphprune shrink`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from graphprune.commands.options import AsJson, Force, Model, Planning, planning
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
    check_outputs(model, asked.weights, out, plan, force)
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


def check_outputs(
    model: str, weights: Path | None, out: Path, plan: Path | None, force: bool
) -> None:
    """Refuse outputs that cannot be written, or would replace something, before the work.

    Args:
        model: The name of the model, or its file.
        weights: A file of weights that is read.
        out: Where the model goes.
        plan: Where the plan goes.
        force: Whether what exists is replaced.

    Raises:
        GraphPruneError: Names the file, and the way out.
    """
    from graphprune.core.errors import GraphPruneError
    from graphprune.core.files import check_target
    from graphprune.frontends.onnx import is_onnx

    if is_onnx(model) and not is_onnx(out):
        raise GraphPruneError(f"{out}: an ONNX model is written as an .onnx file")
    if out.suffix not in (".pt", ".pt2", ".onnx"):
        raise GraphPruneError(f"{out}: the output is a .pt, .pt2 or .onnx file")
    given = {Path(name).resolve() for name in (model, weights) if name is not None}
    for target in (out, plan):
        own = target == out and is_onnx(model)  # read whole before it is replaced
        if target is not None and target.resolve() in given and not (own and force):
            hint = ", or pass --force to replace it" if own else ""
            raise GraphPruneError(f"{target} is an input: write the result elsewhere{hint}")
        if target is not None and target.exists() and not force:
            raise GraphPruneError(f"{target} exists: pass --force to replace it")
        if target is not None:
            check_target(target)
