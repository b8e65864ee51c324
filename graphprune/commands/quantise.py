"""`graphprune quantise`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphprune.commands.options import AsJson, Data, Force
from graphprune.commands.outputs import check_new
from graphprune.commands.printing import say


def quantise(
    model: Annotated[str, typer.Argument(help="an .onnx file")],
    out: Annotated[Path, typer.Option("-o", "--out", help=".onnx")],
    data: Data = None,
    kind: Annotated[str, typer.Option(help="static, dynamic, weights or auto")] = "static",
    samples: Annotated[int, typer.Option(help="calibration inputs, at most")] = 128,
    seed: Annotated[int, typer.Option(help="for inputs that are made")] = 0,
    names: Annotated[
        bool, typer.Option(help="keep the names of values inside; without, small files shrink")
    ] = True,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Quantise an ONNX file to int8."""
    import json

    from graphprune.core.errors import GraphPruneError
    from graphprune.frontends.onnx import is_onnx
    from graphprune.quantising.quantise import quantise as work

    if not is_onnx(model):
        raise GraphPruneError(f"{model} is no .onnx file: export it first (graphprune shrink -o)")
    check_new(out, force, (".onnx",))
    done = work(model, data, kind=kind, out=out, samples=samples, seed=seed, names=names)
    if as_json:
        typer.echo(json.dumps({**done.as_dict(), "path": str(out)}))
    say(f"{done}\nwrote {out}", as_json)
