"""A run of a graph over many samples, one operation at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from graphprune.core.axes import Axis, leaves
from graphprune.core.cuts import narrow
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Indices
from graphprune.engine.tensors import as_dtype
from graphprune.frontends.torch.execute import evaluate

Chunk: TypeAlias = "tuple[torch.Tensor, ...]"
Attrs: TypeAlias = "Mapping[Op, Mapping[str, Any]]"


class Sweep:
    """The values of a graph for all samples; each is freed after its last use.

    Samples stay in chunks, so that no operation needs memory for all of them at once.

    Args:
        graph: The graph.
        weights: Gives the tensor of a weight.
        chunks: Tensors for the graph's inputs, for each chunk of samples.
        attrs: Attributes with new values.
        dtype: Floating-point type to compute in.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Callable[[Value], torch.Tensor],
        chunks: Sequence[Chunk],
        attrs: Attrs,
        dtype: torch.dtype,
    ) -> None:
        self._weights = weights
        self._attrs = attrs
        self._dtype = dtype
        self._run = graph.run or evaluate
        self._last = {value: op for op in graph.ops for value in op.inputs if value is not None}
        self._env: dict[Value, list[torch.Tensor]] = {}
        for number, value in enumerate(graph.inputs):
            self._env[value] = [as_dtype(chunk[number], dtype).clone() for chunk in chunks]
        self._number = len(chunks)

    def values(self, value: Value) -> list[torch.Tensor]:
        """What a value is, chunk by chunk."""
        return self._env[value]

    def step(self, op: Op) -> None:
        """Run one operation."""
        held = {
            value: None if value.tensor is None else as_dtype(self._weights(value), self._dtype)
            for value in op.inputs
            if value is not None and value.is_weight
        }
        changed = self._attrs.get(op, {})
        results: list[list[torch.Tensor]] = []
        for number in range(self._number):
            operands = [
                None if v is None else held[v] if v in held else self._env[v][number]
                for v in op.inputs
            ]
            results.append(self._run(op, operands, changed, self._dtype))
        for value, found in zip(op.outputs, zip(*results, strict=True), strict=True):
            self._env[value] = list(found)

    def release(self, op: Op) -> None:
        """Free what no later operation reads."""
        for value in [*op.inputs, *op.outputs]:
            if value is not None and self._last.get(value) in (op, None):
                self._env.pop(value, None)


def batch_axis(deps: Dependencies) -> Axis | None:
    """The axis of the samples: the first dimension of the first input, unless it was refined."""
    return next(batch_axes(deps), None)


def batch_axes(deps: Dependencies) -> Iterator[Axis]:
    """The axis of each input's first dimension, but for those that were refined."""
    for value in deps.source.inputs:
        dims = deps.dims[value]
        if dims and len(found := leaves(dims[0])) == 1 and found[0].parts is None:
            yield found[0]


def resized(deps: Dependencies, keep: Mapping[Axis, Indices], batch: int) -> Attrs:
    """Attributes of the narrowed graph for another number of samples.

    Args:
        deps: The analysis.
        keep: Indices that stay, for each axis that loses some.
        batch: Number of samples.
    """
    axis = batch_axis(deps)
    if axis is None or axis.size == batch:
        return narrow(deps, keep).attrs
    return narrow(deps, {**keep, axis: np.arange(batch)}).attrs


def sampled(deps: Dependencies) -> list[bool]:
    """For each input of the graph, whether its first dimension counts samples."""
    axis = batch_axis(deps)
    dims = [deps.dims[value] for value in deps.source.inputs]
    return [axis is not None and bool(d) and leaves(d[0]) == [axis] for d in dims]


def chunked(
    samples: Sequence[torch.Tensor], size: int, sampled: Sequence[bool] = (True,)
) -> Iterable[Chunk]:
    """Cut samples into chunks of equal size; what is left over is dropped.

    Args:
        samples: One tensor for each input of the graph, samples first.
        size: Samples in a chunk.
        sampled: Which of the tensors have samples; the others are the same for all chunks.
    """
    number = len(samples[list(sampled).index(True)]) // size
    pairs = list(zip(samples, sampled, strict=True))
    for i in range(number):
        yield tuple(t[i * size : (i + 1) * size] if cut else t for t, cut in pairs)
