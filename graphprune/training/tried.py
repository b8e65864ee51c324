"""What `recover` is given, refused before the work where it cannot be meant or does not fit."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError, OptionError, named_line
from graphprune.engine.tensors import shapes_of


def check_numbers(epochs: Any, batch_size: Any, rate: Any, temperature: Any, seconds: Any) -> None:
    """Refuse numbers that cannot be meant; they are those of `recover`.

    Raises:
        OptionError: One of them is none that could be.
    """
    for what, value in (("epochs", epochs), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise OptionError(f"{what} is a whole number of at least 1, not {value!r}")
    if not isinstance(rate, int | float) or not 0 < rate < 1:
        raise OptionError(
            "rate is the share of each weight's norm that a step changes, above 0 and below 1, "
            f"such as 0.01, not {rate!r}"
        )
    if not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise OptionError(f"temperature is a number above 0, not {temperature!r}")
    if seconds is not None and not (isinstance(seconds, int | float) and seconds >= 0):
        raise OptionError(f"seconds is a number of at least 0, or None, not {seconds!r}")


def run(model: nn.Module, what: str, batch: Batch) -> Any:
    """What a model gives.

    Args:
        model: The model.
        what: Which of the two it is, for the error.
        batch: Its inputs.

    Raises:
        GraphPruneError: It does not take them.
    """
    try:
        return model(*batch.args, **batch.kwargs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise GraphPruneError(
            f"data: {what} does not take inputs of {shapes(batch)} ({named_line(error)}): pass "
            "data that both models take, and the teacher that the smaller one was made of"
        ) from error


def shapes(batch: Batch) -> str:
    """Shapes and types of a batch's tensors in words."""
    leaves = pytree.tree_leaves((batch.args, batch.kwargs))
    return shapes_of([x for x in leaves if isinstance(x, torch.Tensor)])
