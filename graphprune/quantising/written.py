"""int8 of a file that a model was written as, with data as the model itself takes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.core.batch import Batch
from graphprune.core.errors import OptionError
from graphprune.core.program import Inputs
from graphprune.frontends.opening import open_model
from graphprune.models import given_data
from graphprune.quantising.quantise import (
    SAMPLES,
    check_installed,
    quantise,
    quantised_already,
)
from graphprune.quantising.quantised import Quantised
from graphprune.statistics.batches import read_batches


def check_float(model: Any) -> None:
    """Refuse before the work that leads to an ONNX file in int8 what cannot become one.

    Args:
        model: A module or an ONNX model.

    Raises:
        GraphPruneError: ONNX Runtime is not installed.
        OptionError: The model holds int8 operations already.
    """
    check_installed(is_module=False)
    if not isinstance(model, nn.Module):
        lifted = open_model(model, None, None, 1).program
        if quantised_already(lifted.graph):
            raise OptionError(f"{lifted.name} holds int8 operations already: leave int8 out")


def quantise_written(
    file: Path,
    model: Any,
    data: Any = None,
    *,
    inputs: Inputs | None = None,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Quantised:
    """Quantise the ONNX file that a model, or a smaller one made of it, was written as.

    Args:
        file: The file.
        model: The model that `data` are for.
        data: As for `graphprune.shrink`; inputs are made where not given.
        inputs: Example inputs of the model.
        out: Where to write the result.
        seed: For inputs that are made.

    Raises:
        GraphPruneError: As for `quantise`.
    """
    if data is not None and isinstance(model, nn.Module):
        batches = read_batches(given_data(data, model, inputs, SAMPLES), model, SAMPLES)
        data = named(file, batches)
    return quantise(file, data, out=out, seed=seed)


def named(file: Path, batches: Sequence[Batch] | None) -> list[dict[str, Any]] | None:
    """Batches as the inputs of an ONNX file are named; labels do not count."""
    if batches is None:
        return None
    import onnx

    names = [item.name for item in onnx.load(file, load_external_data=False).graph.input]
    out = []
    for batch in batches:
        rest = (name for name in names if name not in batch.kwargs)
        by_name = {**batch.kwargs, **dict(zip(rest, batch.args, strict=False))}
        feeds = {n: torch.as_tensor(by_name[n]) for n in names if n in by_name}
        out.append({n: x.detach().cpu().numpy() for n, x in feeds.items()})
    return out
