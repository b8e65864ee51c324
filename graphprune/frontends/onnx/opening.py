"""Opening an ONNX model: read, its sizes settled, lifted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphprune.core.batch import Batch
from graphprune.core.errors import LiftError
from graphprune.core.ledger import timed
from graphprune.core.program import Inputs
from graphprune.frontends.onnx.data import examples_of, read_data
from graphprune.frontends.onnx.lift import lift
from graphprune.frontends.onnx.model import read_model
from graphprune.frontends.onnx.program import FileProgram
from graphprune.frontends.onnx.tensors import Array, as_array
from graphprune.statistics.batches import check_finite


def open_file(
    model: Any, inputs: Inputs | None, data: Any, samples: int
) -> tuple[FileProgram, list[Batch], dict[str, float]]:
    """Read and lift a model.

    Args:
        model: A path, a ModelProto or an onnx-graphsurgeon graph.
        inputs: Example inputs, positional and by name; they settle the sizes of dynamic
            dimensions. None where the sizes can be guessed.
        data: Calibration data, or None.
        samples: How many samples of them are wanted.

    Returns:
        The lifted model, the data as batches, and the time of each stage.

    Raises:
        LiftError: The model cannot be analysed, or holds nothing to prune.
    """
    seconds: dict[str, float] = {}
    source = timed(seconds, "read", read_model, model)
    if not source.inputs:
        raise LiftError(f"{source.label} takes no inputs: it always returns the same")
    batches = [] if data is None else read_data(source, data, samples)
    for number, batch in enumerate(batches):
        positional = zip([item.name for item in source.inputs], batch.args, strict=False)
        check_finite(f"data: batch {number}", {**dict(positional), **batch.kwargs})
    examples = _examples(inputs, [item.name for item in source.inputs])
    if batches and not examples:
        examples = examples_of(source, batches)
    lifted = timed(seconds, "lift", lift, source, examples)
    if not any(True for _ in lifted.graph.parameters()):
        raise LiftError(
            f"{source.label} holds no weights that its operations use: there is nothing to prune"
        )
    return FileProgram(lifted), batches, seconds


def _examples(given: Inputs | None, names: list[str]) -> dict[str, Array]:
    """Example inputs by name."""
    args, kwargs = given or ((), {})
    if len(args) > len(names):
        raise LiftError(f"{len(args)} example inputs for the {len(names)} inputs {names}")
    return {name: _array(x) for name, x in (*zip(names, args, strict=False), *kwargs.items())}


def _array(item: Any) -> Array:
    return as_array(item) if isinstance(item, torch.Tensor) else np.asarray(item)
