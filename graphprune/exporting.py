"""Exporting: what can be folded without any change of the outputs is folded in ONNX files.

A module that goes on training keeps its norms and branches. A file that was exported from one is
for inference: there they cost time for nothing.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.files import write_whole
from graphprune.core.program import Inputs
from graphprune.frontends.opening import open_model
from graphprune.frontends.torch.saving import save_model
from graphprune.pipeline import Asked, Pipeline, Work
from graphprune.pipelines import FOLDING

_log = logging.getLogger("graphprune")


def write_module(model: nn.Module | ExportedProgram, inputs: Inputs, path: Path) -> None:
    """Write a module; an ONNX file is folded.

    Args:
        model: The module, or a program exported from it.
        inputs: Example inputs.
        path: `.pt`, `.pt2` or `.onnx`.

    Raises:
        GraphPruneError: The format cannot hold this model, or the file cannot be written.
    """
    save_model(model, inputs, path)
    if path.suffix == ".onnx":
        fold_file(path)


def fold_file(path: Path) -> int:
    """Fold norms, branches and what hands on its input in an ONNX file, in place.

    Args:
        path: The file. It stays as it is where nothing can be folded, or where it cannot be read.

    Returns:
        How many operations went.
    """
    try:
        opened = open_model(path, None)
        work = Work(opened.program, Asked())
        before = len(opened.program.graph.ops)
        Pipeline(FOLDING).decide(work)
        folded: Any = work.program
    except GraphPruneError as error:
        _log.info("%s: not folded: %s", path, first_line(error))
        return 0
    if folded is opened.program:
        return 0
    write_whole(path, folded.model.SerializeToString())
    number = before - len(folded.graph.ops)
    _log.info("%s: %d operations folded", path, number)
    return number


__all__ = ["fold_file", "write_module"]
