"""`graphprune verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphprune.commands.options import AsJson, Extension, Model, Weights, load_extensions
from graphprune.commands.printing import print_report


def verify(
    model: Model,
    plan: Annotated[Path, typer.Option(help="a plan that was saved")],
    weights: Weights = None,
    extension: Extension = None,
    as_json: AsJson = False,
) -> None:
    """Apply a saved plan to a model and check the result."""
    from graphprune.loading import load_plan
    from graphprune.models import load_model

    load_extensions(extension)
    made = load_plan(plan)
    made.apply(load_model(model, weights))
    assert made.report is not None
    print_report(made.report, as_json)
