"""Look at intermediate values of a captured model while calibration data passes through it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from graphprune.core.axes import leaves
from graphprune.core.batch import Batch
from graphprune.core.cuts import narrow
from graphprune.core.errors import GraphPruneError
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Attrs, Run, given_inputs

Visit = Callable[[Value, torch.Tensor], None]


def observe(
    deps: Dependencies, batches: Sequence[Batch], wanted: Collection[Value], visit: Visit
) -> Iterator[Batch]:
    """Run the captured graph on data and call `visit` with intermediate values.

    The graph was captured at one batch size. Where the analysis knows which shape attributes hold
    that size, batches run as they are; otherwise in parts of the captured size.

    Args:
        deps: The analysis of the graph; its weights are used as they are.
        batches: The data.
        wanted: Values to look at.
        visit: Called with each wanted value and its tensor.

    Yields:
        Each batch after it has run.

    Raises:
        GraphPruneError: The data does not fit the captured inputs.
    """
    ops = _needed(deps, wanted)
    captured = deps.source.inputs[0].shape[0]
    flexible = _runs(deps, batches[0].head(captured + 1), ops)
    for batch in batches:
        if flexible or batch.samples == captured:
            parts = [batch]
        elif batch.samples > captured:
            parts = list(batch.split(captured))
        else:
            raise GraphPruneError(
                f"data: a batch of {batch.samples} is smaller than the {captured} that the model "
                "was captured with: pass larger batches, or example_inputs of this size"
            )
        for part in parts:
            _run(deps, part, ops, lambda v, x: visit(v, x) if v in wanted else None)
        yield batch


def tensors(deps: Dependencies, batch: Batch) -> list[torch.Tensor]:
    """The tensors of a batch, in the order of the graph's inputs.

    Raises:
        GraphPruneError: Number or shapes differ from those captured.
    """
    wanted = deps.source.inputs
    named = {name.lower(): x for name, x in batch.kwargs.items()}
    rest = [value for value in wanted if value.name.lower() in named]
    found = _flat(batch.args)
    found += [named[value.name.lower()] for value in rest] if rest else _flat(batch.kwargs)
    shapes = [tuple(x.shape[1:]) for x in found]
    if shapes != [value.shape[1:] for value in wanted]:
        raise GraphPruneError(
            f"data: a batch holds tensors of shapes {[tuple(x.shape) for x in found]}; the model "
            f"was captured with {[value.shape for value in wanted]}: pass example_inputs of the "
            "data's shapes"
        )
    return found


def _flat(tree: Any) -> list[torch.Tensor]:
    return [x for x in pytree.tree_leaves(tree) if isinstance(x, torch.Tensor)]


def _resized(deps: Dependencies, batch: Batch) -> Attrs | None:
    """Shape attributes for another batch size; None where the analysis cannot tell them.

    A batch size is a length of the batch axis, so attributes follow from it as they do from a cut.
    """
    if batch.samples == deps.source.inputs[0].shape[0]:
        return {}
    keep = {}
    for value in deps.source.inputs:
        if not value.shape or value.shape[0] == batch.samples:
            continue
        factors = leaves(deps.dims[value][0])
        if len(factors) != 1 or factors[0].parts is not None:
            return None
        keep[factors[0]] = np.arange(batch.samples)
    cuts = narrow(deps, keep)
    return None if cuts.weights else cuts.attrs


def _needed(deps: Dependencies, wanted: Collection[Value]) -> list[Op]:
    """The operations up to the last one that reads or makes a wanted value."""
    stop = 0
    for number, op in enumerate(deps.source.ops):
        if any(value in wanted for value in (*op.inputs, *op.outputs) if value is not None):
            stop = number
    return deps.source.ops[: stop + 1]


def _run(deps: Dependencies, batch: Batch, ops: Sequence[Op], visit: Visit) -> None:
    attrs = _resized(deps, batch)
    if attrs is None:
        raise RuntimeError("the batch size is fixed")
    graph = deps.source
    dtype = graph.engine.native
    given = given_inputs(graph, tensors(deps, batch), dtype)
    for value, tensor in given.items():
        visit(value, tensor)
    run = Run(graph, lambda value: value.tensor.detach(), [given], attrs, dtype, ops=ops)
    for op in run.steps():
        for value in op.outputs:
            visit(value, *run.values(value))


def _runs(deps: Dependencies, batch: Batch, ops: Sequence[Op]) -> bool:
    """Whether the graph runs at this batch size, each value of as many dimensions as captured."""
    fits = True

    def check(value: Value, tensor: torch.Tensor) -> None:
        nonlocal fits
        fits = fits and len(tensor.shape) == len(value.shape)

    try:
        _run(deps, batch, ops, check)
    except (RuntimeError, IndexError, ValueError):
        return False
    return fits
