"""What `recover` trains on: the caller's data, in memory or read anew, or inputs that are made."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.compensation.calibration import inputs_for
from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError
from graphprune.models import given_data
from graphprune.planning import opened_and_coupled
from graphprune.statistics.batches import read_batches
from graphprune.training.constants import SAMPLES
from graphprune.training.shuffled import Shuffled
from graphprune.training.streamed import Streamed, is_read_again


def samples_of(teacher: nn.Module, data: Any, size: int, seed: int) -> Shuffled | Streamed:
    """The samples of a training, to be held out in part and shuffled in each pass.

    Args:
        teacher: The model whose inputs they are.
        data: The caller's; None: inputs are made.
        size: Samples of a batch, at most.
        seed: For their order, and for inputs that are made.

    Raises:
        GraphPruneError: Data cannot be read, or no inputs can be made.
    """
    generator = torch.Generator().manual_seed(seed)
    if data is None:
        return Shuffled(_made(teacher, seed), size, generator)
    given = given_data(data, teacher)
    if is_read_again(given):
        return Streamed(given, teacher, size, generator)
    return Shuffled(read_batches(given, teacher, SAMPLES), size, generator)


def _made(teacher: nn.Module, seed: int) -> list[Batch]:
    opened, deps = opened_and_coupled(teacher, None)
    program = opened.program
    args, kwargs = program.example()
    leaves, structure = pytree.tree_flatten((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    samples = inputs_for(program, deps, seed=seed)
    if samples is None or program.original is not None or len(tensors) != len(samples.chunks[0]):
        raise GraphPruneError("no inputs can be made for this model: pass data=")
    out = []
    for chunk in samples.chunks:
        new = iter(chunk)
        filled = [next(new) if isinstance(x, torch.Tensor) else x for x in leaves]
        given, named = pytree.tree_unflatten(filled, structure)
        out.append(Batch(given, named, None, samples.size))
    return out
