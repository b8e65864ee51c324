"""`graphprune inspect`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from graphprune.commands.options import (
    Extension,
    Model,
    Size,
    Weights,
    inputs_of,
    load_extensions,
)


def inspect(
    model: Model,
    weights: Weights = None,
    input_size: Size = None,
    why: Annotated[
        tuple[str, str] | None, typer.Option(help="show what couples two layers")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="only this layer; * matches any")] = None,
    dot: Annotated[str | None, typer.Option(help="write Graphviz here, - for stdout")] = None,
    graphml: Annotated[str | None, typer.Option(help="write GraphML here")] = None,
    extension: Extension = None,
    as_json: Annotated[str | None, typer.Option("--json", help="write JSON here")] = None,
) -> None:
    """Print the coupled groups of a model, or why two layers are coupled."""
    from graphprune import inspecting
    from graphprune.api import analyze
    from graphprune.core.files import check_target, write_whole
    from graphprune.models import load_model

    load_extensions(extension)
    for target in (dot, graphml, as_json):
        if target not in (None, "-"):
            check_target(target)
    deps = analyze(load_model(model, weights), inputs_of(input_size))
    wanted: list[tuple[str | None, Callable[[Any], str]]] = [
        (dot, inspecting.as_dot),
        (graphml, inspecting.as_graphml),
        (as_json, inspecting.as_json),
    ]
    for target, view in wanted:
        if target == "-":
            typer.echo(view(deps), nl=False)
        elif target is not None:
            write_whole(target, view(deps).encode())
    if why is not None:
        typer.echo(inspecting.why_text(deps, *why), nl=False)
    elif not any(target for target, _ in wanted):
        typer.echo(inspecting.describe(deps, layer), nl=False)
