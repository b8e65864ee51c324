"""`graphprune inspect`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from graphprune.commands.options import (
    Extension,
    Force,
    Model,
    Size,
    Weights,
    inputs_of,
    load_extensions,
)
from graphprune.commands.outputs import check_new
from graphprune.commands.printing import say


def inspect(
    model: Model,
    weights: Weights = None,
    input_size: Size = None,
    why: Annotated[
        tuple[str, str] | None, typer.Option(help="every reason why two layers are coupled")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="only this layer; * matches any")] = None,
    html: Annotated[str | None, typer.Option(help="write a page to look at here")] = None,
    dot: Annotated[str | None, typer.Option(help="write Graphviz here, - for stdout")] = None,
    graphml: Annotated[str | None, typer.Option(help="write GraphML here, - for stdout")] = None,
    extension: Extension = None,
    force: Force = False,
    as_json: Annotated[
        str | None, typer.Option("--json", help="write JSON here, - for stdout")
    ] = None,
) -> None:
    """Print the coupled groups of a model, or why two layers are coupled."""
    import json

    from graphprune import inspecting
    from graphprune.api import analyze
    from graphprune.core.files import write_whole
    from graphprune.models import load_model

    load_extensions(extension)
    check_new(html, force, (".html",))
    for target in (dot, graphml, as_json):
        check_new(target, force)
    deps = analyze(load_model(model, weights), inputs_of(input_size))
    wanted: list[tuple[str | None, Callable[[], str]]] = [
        (html, lambda: deps.as_html(layer, why)),
        (dot, lambda: deps.as_dot(layer)),
        (graphml, lambda: deps.as_graphml(layer)),
        (as_json, lambda: json.dumps(deps.as_dict(), indent=1) + "\n"),
    ]
    for target, view in wanted:
        if target == "-":
            typer.echo(view(), nl=False)
        elif target is not None:
            write_whole(target, view().encode())
            say(f"wrote {target}", as_json=True)
    if why is not None:
        typer.echo(inspecting.why_text(deps, *why), nl=False)
    elif not any(target for target, _ in wanted):
        typer.echo(inspecting.describe(deps, layer), nl=False)
