"""`graphprune factor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphprune.commands.options import (
    AsJson,
    Data,
    Extension,
    Force,
    Model,
    Size,
    Weights,
    inputs_of,
    load_extensions,
    numbers,
)
from graphprune.commands.outputs import check_model
from graphprune.commands.printing import print_report, print_written


def factor(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help=".pt, .pt2 or .onnx")],
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
    keep: Annotated[list[str] | None, typer.Option(help="layers to leave alone; * matches any")] = (
        None
    ),
    compensate: Annotated[
        str, typer.Option(help="look at what layers read: auto, on or off")
    ] = "auto",
    data: Data = None,
    weights: Weights = None,
    input_size: Size = None,
    plan: Annotated[Path | None, typer.Option(help="also write the plan here")] = None,
    verify: Annotated[bool, typer.Option(help="check the result")] = True,
    seed: Annotated[int, typer.Option(help="for whatever is drawn")] = 0,
    extension: Extension = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Put two thin layers in place of one, wherever that makes a model smaller, and write it."""
    from graphprune.core.errors import GraphPruneError
    from graphprune.factoring import factored
    from graphprune.models import load_model

    load_extensions(extension)
    if compensate not in ("auto", "on", "off"):
        raise GraphPruneError(f"--compensate is auto, on or off, not {compensate}")
    check_model(model, weights, out, plan, force)
    options: dict[str, Any] = {
        "budget": numbers(budget, "--budget", "macs=0.5"),
        "limits": numbers(limits, "--limits", "layer=16"),
        "round_to": int(round_to) if round_to.isdigit() else round_to,
        "keep": keep or (),
        "compensate": {"on": True, "off": False}.get(compensate, "auto"),
        "data": data,
        "example_inputs": inputs_of(input_size),
        "verify": verify,
        "seed": seed,
    }
    made = factored(load_model(model, weights), ratio, of, options)
    made.write(out)
    if plan is not None:
        made.save(plan)
    assert made.report is not None
    print_report(made.report, as_json)
    print_written(out, made.report, as_json)
