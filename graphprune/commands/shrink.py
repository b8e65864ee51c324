"""`graphprune shrink`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

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
from graphprune.commands.printing import print_report, print_written, say

if TYPE_CHECKING:
    from graphprune.quantising.quantised import Quantised
    from graphprune.report.report import Report


@planning
def shrink(
    model: Model,
    out: Out,
    asked: Planning,
    int8: Annotated[
        bool, typer.Option("--int8", help="quantise the .onnx file that is written")
    ] = False,
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
    given = asked.opened(model)
    with _place(given, out, int8) as place:
        if steps > 1:
            in_steps = _Steps(steps, schedule, state)
            report, weighs = _in_steps(given, asked, place, plan, verify, in_steps)
            if report is not None:
                say(f"step {steps} of {steps}, beside the model before it:", as_json)
        else:
            report, weighs = _at_once(given, asked, place, plan, verify)
        done = _quantised(given, asked, place, out) if int8 else None
    if report is not None:
        print_report(report, as_json, done)
    elif done is not None:
        say(str(done), as_json)
    print_written(out, weighs if done is None else (weighs[0], done.bytes[1]), as_json)
    if plan is not None:
        say(f"wrote {plan}", as_json)


class _Steps(NamedTuple):
    number: int
    schedule: str
    state: Path | None


@contextmanager
def _place(model: Any, out: Path, int8: bool) -> Iterator[Path]:
    """Where the model is written: where it stays, or goes to be quantised from there.

    Raises:
        GraphPruneError: It is to be quantised, and cannot be.
    """
    from graphprune.core.errors import GraphPruneError
    from graphprune.quantising.written import check_float

    if not int8:
        yield out
        return
    if out.suffix != ".onnx":
        raise GraphPruneError(f"{out}: --int8 quantises the .onnx file that is written")
    check_float(model)
    with TemporaryDirectory() as folder:
        yield Path(folder) / out.name


def _quantised(model: Any, asked: Planning, file: Path, out: Path) -> Quantised:
    """Quantise a file that was written, with the data that were given for the model."""
    from graphprune.commands.options import inputs_of
    from graphprune.frontends.torch.inputs import as_inputs
    from graphprune.quantising.written import quantise_written

    inputs = as_inputs(inputs_of(asked.input_size))
    return quantise_written(file, model, asked.data, inputs=inputs, out=out, seed=asked.seed)


def _at_once(
    model: Any, asked: Planning, out: Path, plan: Path | None, verify: bool
) -> tuple[Report, tuple[int, int]]:
    """Shrink and write the result; the report, bytes before and after."""
    from graphprune.api import plan as planned

    made = planned(model, asked.ratio, asked.of, verify=verify, **asked.options())
    made.write(out)
    if plan is not None:
        made.save(plan)
    assert made.report is not None and made.report.bytes is not None
    return made.report, made.report.bytes


def _in_steps(
    given: Any, asked: Planning, out: Path, plan: Path | None, verify: bool, steps: _Steps
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
    options = asked.options()
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
