"""`graphprune shrink`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphprune.commands.options import AsJson, Force, Model, Planning, planning
from graphprune.commands.printing import print_report


@planning
def shrink(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help=".pt, .pt2 or .onnx")],
    asked: Planning,
    plan: Annotated[Path | None, typer.Option(help="also write the plan here")] = None,
    verify: Annotated[bool, typer.Option(help="check the result")] = True,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a model smaller and write it."""
    check_outputs(model, asked.weights, out, plan, force)
    made = asked.plan(model, verify)
    made.write(out)
    if plan is not None:
        made.save(plan)
    print_report(made, as_json)


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
