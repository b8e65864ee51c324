"""Samples from the caller's data, arranged as the captured graph takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError
from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.engine.run import sampled
from graphprune.statistics.batches import counted
from graphprune.statistics.samples import Samples, captured, split


def read(program: Program, deps: Dependencies, data: Iterable[Any], most: int) -> Samples:
    """Read samples from the caller's data.

    Args:
        program: The captured model.
        deps: The analysis.
        data: Any iterable of batches: tensors with samples first, tuples that begin with the
            model's inputs (labels after them are ignored), or dicts of keyword arguments.
        most: Largest number of samples to read.

    Raises:
        GraphPruneError: There are no samples, or they do not fit the model.
    """
    if program.original is not None:
        batches = [Batch((), dict(x)) if isinstance(x, Mapping) else Batch(tuple(x)) for x in data]
        return of_parts(program, deps, [counted(batch) for batch in batches], most)
    which = sampled(deps)
    given = iter([data] if isinstance(data, torch.Tensor) else data)
    first = list(islice(given, 1))
    given = chain(first, given)
    # Where the inputs' batch dimensions are different axes (tokens and a mask), only the captured
    # batch size is known to run.
    if not any(which) or (not all(which) and any(_pieces(program, x)[0] is not x for x in first)):
        return _whole(program, deps, given, most)
    at, batch = which.index(True), captured(deps)
    items: list[list[torch.Tensor]] = []
    for number, item in enumerate(given):
        items.append(_tensors(program, item, number, which))
        if sum(len(tensors[at]) for tensors in items) >= most:
            break
    if not items:
        raise GraphPruneError("data: there is not a single sample in it")
    joined = [
        torch.cat(parts)[:most] if cut else parts[0]
        for parts, cut in zip(zip(*items, strict=True), which, strict=True)
    ]
    number = len(joined[at])
    whole = max(number // batch, 1) * batch
    index = torch.arange(whole) % number  # fewer than the captured batch: some are repeated
    tensors = [t[index.to(t.device)] if cut else t for t, cut in zip(joined, which, strict=True)]
    more = sum(len(tensors[at]) for tensors in items) > number
    which_ones = "the first " if more or next(given, None) is not None else ""
    return split(deps, tensors, f"{which_ones}{number} inputs from data")


def of_parts(program: Program, deps: Dependencies, batches: Sequence[Batch], most: int) -> Samples:
    """Samples for a model captured in parts: what its parts are called with while it runs.

    Args:
        program: The captured model.
        deps: The analysis.
        batches: Inputs of the whole model.
        most: Largest number of samples to read.

    Raises:
        GraphPruneError: No batch leads to calls of the parts as they were captured.
    """
    replayed = program.replayed(batches)
    return _whole(program, deps, [batch.args for batch in replayed], most)


def _whole(program: Program, deps: Dependencies, data: Iterable[Any], most: int) -> Samples:
    """Samples for a model whose inputs have no batch dimension: each item is one sample."""
    which = sampled(deps)
    items = islice(chain.from_iterable(_pieces(program, item) for item in data), most)
    chunks = [tuple(_tensors(program, item, number, which)) for number, item in enumerate(items)]
    if not chunks:
        raise GraphPruneError("data: there is not a single sample in it")
    return Samples(chunks, captured(deps), f"{len(chunks)} inputs from data")


def _pieces(program: Program, item: Any) -> list[Any]:
    """Cut an item into parts of the captured batch size; return it whole where that is unclear.

    A single sample is repeated: two were captured, so that batches show, of what may have been one.
    """
    likes = program.flat_inputs()
    if isinstance(item, Mapping):
        item = [item[name] for name in program.inputs[1] if name in item]
    tensors = [x for x in pytree.tree_leaves(item) if isinstance(x, torch.Tensor)]
    if len(tensors) != len(likes) or any(not x.dim() for x in [*tensors, *likes]):
        return [item]
    again = len(likes[0])
    if all(len(x) == 1 and len(y) == again for x, y in zip(tensors, likes, strict=True)):
        return [[x.expand(again, *x.shape[1:]) for x in tensors]]
    number = len(tensors[0]) // max(len(likes[0]), 1)
    if number < 2 or any(len(x) != number * len(y) for x, y in zip(tensors, likes, strict=True)):
        return [item]
    parts = [torch.split(x, len(y)) for x, y in zip(tensors, likes, strict=True)]
    return list(zip(*parts, strict=True))


def _tensors(program: Program, item: Any, number: int, which: Sequence[bool]) -> list[torch.Tensor]:
    """The graph's input tensors in one item of the caller's data.

    Args:
        program: The captured model.
        item: The item.
        number: Its number, for the error.
        which: For each input whether its first dimension is the batch.

    Raises:
        GraphPruneError: Number or shapes of the tensors differ from those captured.
    """
    if isinstance(item, Mapping):
        item = [item[name] for name in program.inputs[1] if name in item]
    likes = program.flat_inputs()
    found = [x for x in pytree.tree_leaves(item) if isinstance(x, torch.Tensor)][: len(likes)]
    if len(found) != len(likes) or any(
        x.shape[int(cut) :] != like.shape[int(cut) :] or x.dim() != like.dim()
        for x, like, cut in zip(found, likes, which, strict=True)
    ):
        shapes = [tuple(x.shape) for x in found]
        raise GraphPruneError(
            f"data: item {number} holds tensors of shapes {shapes}; the model was captured with "
            f"{[tuple(x.shape) for x in likes]}: pass example_inputs of data's shape"
        )
    return [x.detach().to(like.device, like.dtype) for x, like in zip(found, likes, strict=True)]
