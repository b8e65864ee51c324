"""`graphprune sparsify`."""

from __future__ import annotations

from typing import Annotated

import typer

from graphprune.commands.options import (
    AsJson,
    Data,
    Extension,
    Force,
    Model,
    Out,
    PlanFile,
    Seed,
    Size,
    Weights,
    inputs_of,
    load_extensions,
    switched,
)
from graphprune.commands.outputs import check_model
from graphprune.commands.printing import hand_over


def sparsify(
    model: Model,
    out: Out,
    ratio: Annotated[
        float | None, typer.Option(help="fraction that becomes zero; a half unless told")
    ] = None,
    pattern: Annotated[
        str, typer.Option(help="unstructured, N:M such as 2:4, or block:HxW such as block:4x4")
    ] = "unstructured",
    importance: Annotated[str, typer.Option(help="auto, magnitude, wanda, obs or random")] = "auto",
    spread: Annotated[str, typer.Option(help="auto, uniform, global, lamp, erk or loss")] = "auto",
    keep: Annotated[
        list[str] | None,
        typer.Option(help="layers to leave dense, in place of the usual ones; * matches any"),
    ] = None,
    compensate: Annotated[
        str, typer.Option(help="let what stays make up for it: auto, on or off")
    ] = "auto",
    data: Data = None,
    weights: Weights = None,
    input_size: Size = None,
    plan: PlanFile = None,
    seed: Seed = 0,
    extension: Extension = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Set numbers of a model's weights to zero and write it."""
    from graphprune.api import plan_sparsity
    from graphprune.models import load_model

    load_extensions(extension)
    check_model(model, weights, out, plan, force)
    made = plan_sparsity(
        load_model(model, weights),
        ratio,
        pattern,
        importance=importance,
        spread=spread,
        keep=keep,
        compensate=switched(compensate),
        data=data,
        example_inputs=inputs_of(input_size),
        seed=seed,
    )
    hand_over(made, out, plan, as_json)
