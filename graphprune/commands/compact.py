"""`graphprune compact`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphprune.commands.options import (
    AsJson,
    Extension,
    Force,
    Keep,
    Model,
    Seed,
    Size,
    Verify,
    Weights,
    inputs_of,
    load_extensions,
)
from graphprune.commands.outputs import check_model
from graphprune.commands.printing import hand_over


def compact(
    model: Model,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help=".pt, .pt2 or .onnx; beside a file: NAME.compact.onnx"),
    ] = None,
    keep: Keep = None,
    weights: Weights = None,
    input_size: Size = None,
    verify: Verify = True,
    seed: Seed = 0,
    extension: Extension = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Make a model smaller without any change of its outputs, and write it."""
    from graphprune.compacting import compacted
    from graphprune.models import load_model

    target = _target(model) if out is None else out
    check_model(model, weights, target, None, force)
    load_extensions(extension)
    options: dict[str, Any] = {
        "example_inputs": inputs_of(input_size),
        "keep": keep or (),
        "verify": verify,
        "seed": seed,
    }
    made = compacted(load_model(model, weights), options)
    hand_over(made, target, None, as_json)


def _target(model: str) -> Path:
    """Where the result goes if the caller does not say."""
    from graphprune.core.errors import GraphPruneError

    path = Path(model)
    if path.suffix not in (".onnx", ".pt", ".pth", ".pt2"):
        raise GraphPruneError(f"{model} is no file: say where the result goes, -o small.pt")
    suffix = ".pt" if path.suffix == ".pth" else path.suffix
    return path.with_name(f"{path.stem}.compact{suffix}")
