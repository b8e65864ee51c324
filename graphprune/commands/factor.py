"""`graphprune factor`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graphprune.commands.options import (
    AsJson,
    Data,
    Extension,
    Force,
    Keep,
    Model,
    Out,
    PlanFile,
    Seed,
    Size,
    Verify,
    Weights,
    inputs_of,
    load_extensions,
    numbers,
    switched,
    whole,
)
from graphprune.commands.outputs import check_model
from graphprune.commands.printing import hand_over


def factor(
    model: Model,
    out: Out,
    ratio: Annotated[
        float | None, typer.Option(help="fraction to remove, 0 <= ratio < 1; a half unless told")
    ] = None,
    of: Annotated[str, typer.Option(help="what the ratio speaks of: params or macs")] = "params",
    budget: Annotated[
        list[str] | None,
        typer.Option(help="in place of --ratio, of both costs at least: macs=0.5"),
    ] = None,
    limits: Annotated[
        list[str] | None, typer.Option(help="least (and most) rank of a layer: layer=16")
    ] = None,
    round_to: Annotated[str, typer.Option(help="ranks are multiples of this, or auto")] = "auto",
    keep: Keep = None,
    compensate: Annotated[
        str, typer.Option(help="look at what layers read: auto, on or off")
    ] = "auto",
    data: Data = None,
    weights: Weights = None,
    input_size: Size = None,
    plan: PlanFile = None,
    verify: Verify = True,
    seed: Seed = 0,
    extension: Extension = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Put two thin layers in place of one, wherever that makes a model smaller, and write it."""
    from graphprune.factoring import factored
    from graphprune.models import load_model

    load_extensions(extension)
    check_model(model, weights, out, plan, force)
    options: dict[str, Any] = {
        "budget": numbers(budget, "--budget", "macs=0.5"),
        "limits": numbers(limits, "--limits", "layer=16"),
        "round_to": whole(round_to),
        "keep": keep or (),
        "compensate": switched(compensate),
        "data": data,
        "example_inputs": inputs_of(input_size),
        "verify": verify,
        "seed": seed,
    }
    made = factored(load_model(model, weights), ratio, of, options)
    hand_over(made, out, plan, as_json)
