"""`graphprune deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphprune.commands.options import AsJson, Force, Model, Planning, planning
from graphprune.commands.outputs import check_new
from graphprune.commands.printing import say


@planning
def deploy(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help=".onnx")],
    asked: Planning,
    recover: Annotated[
        bool, typer.Option(help="train the smaller module to give what the original gives")
    ] = False,
    int8: Annotated[bool, typer.Option(help="quantise the result")] = True,
    kind: Annotated[
        str, typer.Option(help="of int8: static, dynamic, weights or auto, the best of them")
    ] = "auto",
    names: Annotated[bool, typer.Option(help="keep the names of values in an int8 file")] = False,
    folder: Annotated[
        Path | None, typer.Option(help="keep stages here, and go on from them")
    ] = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Shrink, recover, quantise and export in one go; each stage is measured."""
    import json

    from graphprune.deploying.deploy import deploy as work

    check_new(out, force, (".onnx",))
    options = {name: held for name, held in asked.options().items() if held is not None}
    done = work(
        asked.opened(model), asked.ratio, asked.of, out=out, recover=recover,
        int8=kind if int8 else False, names=names, folder=folder, **options,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(done.as_dict()))
    say(f"{done}\nwrote {out}", as_json)
