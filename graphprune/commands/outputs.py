"""Outputs of commands, checked before the work that makes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def check_new(path: Path | str | None, force: bool, suffixes: Sequence[str] = ()) -> None:
    """Refuse an output that cannot be written, or would replace something.

    Args:
        path: Where it goes; None, or - for stdout: nowhere.
        force: Whether what exists is replaced.
        suffixes: How the name may end; anything where there are none.

    Raises:
        GraphPruneError: Names the file, and the way out.
    """
    from graphprune.core.errors import GraphPruneError
    from graphprune.core.files import check_target

    if path is None or str(path) == "-":
        return
    if check_target(path, suffixes).exists() and not force:
        raise GraphPruneError(f"{path} exists: pass --force to replace it")


def check_model(
    model: str, weights: Path | None, out: Path, plan: Path | None, force: bool
) -> None:
    """Refuse places for a model and its plan that cannot be written, or would replace something.

    Args:
        model: The name of the model, or its file.
        weights: A file of weights that is read.
        out: Where the model goes.
        plan: Where the plan goes.
        force: Whether what exists is replaced.

    Raises:
        GraphPruneError: Names the file, and the way out.
    """
    from graphprune.core.errors import GraphPruneError
    from graphprune.frontends.onnx import is_onnx
    from graphprune.plans import SUFFIXES

    if is_onnx(model) and not is_onnx(out):
        raise GraphPruneError(f"{out}: an ONNX model is written as an .onnx file")
    if out.suffix not in SUFFIXES:
        raise GraphPruneError(f"{out}: the output is a .pt, .pt2 or .onnx file")
    if plan is not None and plan.suffix in SUFFIXES:
        raise GraphPruneError(f"{plan}: a plan is a .json file")
    given = {Path(name).resolve() for name in (model, weights) if name is not None}
    for target in (out, plan):
        own = target == out and is_onnx(model)  # read whole before it is replaced
        if target is not None and target.resolve() in given and not (own and force):
            hint = ", or pass --force to replace it" if own else ""
            raise GraphPruneError(f"{target} is an input: write the result elsewhere{hint}")
        check_new(target, force)
