"""`graphprune sensitivity` and `graphprune sweep`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from graphprune.commands.options import AsJson, Force, Model, Planning, planning
from graphprune.commands.outputs import check_new
from graphprune.commands.printing import command_line, console, say

if TYPE_CHECKING:
    from graphprune.report.sensitivity import Sensitivity
    from graphprune.report.sweep import Sweep

Metric: TypeAlias = Annotated[
    str | None,
    typer.Option(help="what a smaller model is worth: pkg.mod:function, called with the model"),
]


_NARROW = 80  # columns of a terminal

Html: TypeAlias = Annotated[Path | None, typer.Option(help="also write a page with a picture here")]


@planning
def sensitivity(
    model: Model,
    asked: Planning,
    metric: Metric = None,
    html: Html = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Measure what it costs to shrink each coupled group alone, by --ratio of its indices."""
    from graphprune.exploring import sensitivity as measure

    check_new(html, force, (".html",))
    options = asked.options()
    if asked.effort == "auto":
        options.pop("effort")
    ratio = 0.5 if asked.ratio is None else asked.ratio
    found = measure(asked.opened(model), ratio, metric=_function(metric), **options)
    _print(found, html, as_json)


@planning
def sweep(
    model: Model,
    asked: Planning,
    at: Annotated[
        str, typer.Option(help="fractions to remove, with commas")
    ] = "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9",
    by: Annotated[
        str, typer.Option(help="how, with commas: width, rank (layers become two), width+rank")
    ] = "width",
    bits: Annotated[
        str, typer.Option(help="bits of weights at each size, with commas: 32,8,4")
    ] = "32",
    metric: Metric = None,
    state: Annotated[
        Path | None, typer.Option(help="a file to go on from after an interruption")
    ] = None,
    html: Html = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Measure what a model is worth at several sizes."""
    from graphprune.core.errors import GraphPruneError
    from graphprune.sweeping import sweep as measure

    check_new(html, force, (".html",))
    if asked.ratio is not None:
        raise GraphPruneError("a sweep has many ratios: pass --at 0.3,0.5 in place of --ratio")
    if asked.ratios and not any("=" in part for part in asked.ratios):
        at, asked = ",".join(asked.ratios), replace(asked, ratios=None)  # as Python calls them
    try:
        ratios = [float(part) for part in at.split(",")]
    except ValueError:
        raise GraphPruneError(f"--at is a list of fractions such as 0.3,0.5, not {at}") from None
    widths = [int(part) if part.strip().isdecimal() else part for part in bits.split(",")]
    chosen = {
        "metric": _function(metric), "state": state, "by": by.replace(" ", "").split(","),
        "bits": widths, **asked.options(),
    }  # fmt: skip
    if chosen.pop("ratios"):
        raise GraphPruneError("a sweep shrinks the model as a whole: leave out --ratios")
    _print(measure(asked.opened(model), ratios, asked.of, **chosen), html, as_json)


def _function(name: str | None) -> Any:
    from graphprune.models import function_named

    return None if name is None else function_named(name)


def _print(found: Sensitivity | Sweep, html: Path | None, as_json: bool) -> None:
    """Print a result; data on stdout and the text on stderr where asked for."""
    from graphprune.report.explored import drawn

    screen = console(stderr=as_json)
    table = drawn(found.title(), found)
    if screen.width < _NARROW:  # lines between columns would take what numbers need
        table.box = None
    screen.print(table)
    for line in found.notes():
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
    if html is not None:
        found.save(html, command=command_line())
        say(f"wrote {html}", as_json)
    if as_json:
        typer.echo(json.dumps(found.as_dict()))
