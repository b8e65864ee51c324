"""Writing a model to a file, whole or not at all."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from graphprune.errors import GraphPruneError
from graphprune.files import write_whole
from graphprune.frontends.torch import Inputs


def save_model(model: nn.Module, inputs: Inputs, path: Path) -> None:
    """Write a model.

    Args:
        model: The module.
        inputs: Example inputs, for the formats that need a trace.
        path: `.pt` (the pickled module), `.pt2` (an exported program) or `.onnx`.

    Raises:
        GraphPruneError: The format cannot hold this model, or the file cannot be written.
    """
    args, kwargs = inputs
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        target = Path(folder) / f"model{path.suffix}"
        try:
            if path.suffix == ".pt":
                torch.save(model, target)
            else:
                program = torch.export.export(model, args, kwargs, strict=False)
                if path.suffix == ".pt2":
                    torch.export.save(program, target)
                else:
                    torch.onnx.export(
                        program, (), target, dynamo=True, external_data=False, verbose=False
                    )
        except Exception as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise GraphPruneError(f"cannot write the model as {path.suffix}: {lines[0]}") from error
        write_whole(path, target.read_bytes())
