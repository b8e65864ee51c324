"""The one loop over a graph that evaluates its operations, and other numbers of samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import torch

from graphprune.core.axes import Axis, leaves
from graphprune.core.cuts import narrow
from graphprune.core.graph import Evaluator, Graph, Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Indices
from graphprune.engine.tensors import as_dtype
from graphprune.rules.facts import is_random

Chunk: TypeAlias = "tuple[torch.Tensor, ...]"
Attrs: TypeAlias = "Mapping[Op, Mapping[str, Any]]"
Granted: TypeAlias = "Callable[[Op], list[torch.Tensor]]"
Watch: TypeAlias = "Callable[[Op, list[torch.Tensor | None]], None]"


class LastUses:
    """Which values no later operation reads, for each operation.

    Args:
        ops: The operations, in the order in which they run.
        held: Values that are wanted to the end.
    """

    def __init__(self, ops: Sequence[Op], held: Collection[Value] = ()) -> None:
        last = {value: op for op in ops for value in op.inputs if value is not None}
        self._ended: dict[Op, list[Value]] = {}
        for op in ops:
            touched = dict.fromkeys(v for v in (*op.inputs, *op.outputs) if v is not None)
            self._ended[op] = [v for v in touched if v not in held and last.get(v) in (op, None)]

    def after(self, op: Op) -> list[Value]:
        """What may be freed once an operation has run."""
        return self._ended[op]


class Run:
    """One run of a graph, original or narrowed: the only loop that evaluates operations.

    It runs over one input or over many samples in chunks, so that no operation needs memory for
    all of them at once. Each value is freed after its last use.

    Args:
        graph: The graph.
        weights: Gives the tensor of a weight, each time that an operation reads it.
        given: For each chunk the tensors that are known from the start: those of the graph's
            inputs.
        attrs: Attributes with new values.
        dtype: Floating-point type to compute in; None where each number keeps its own.
        ops: The operations to run, in their order; all of the graph's where not given.
        uses: When values are freed; by their last use among `ops` where not given.
        gradients: Whether gradients may be asked for, where PyTorch records them.
        engine: What runs the operations, in place of the graph's own engine.
        granted: Gives the results of operations that the engine lacks; None: they are errors.

    Example::

        run = Run(graph, lambda value: value.tensor, [dict(zip(graph.inputs, inputs))])
        for op in run.steps():
            print(op.name, run.values(op.outputs[0]))
    """

    def __init__(
        self,
        graph: Graph,
        weights: Callable[[Value], torch.Tensor | None],
        given: Sequence[Mapping[Value, torch.Tensor]],
        attrs: Attrs = MappingProxyType({}),
        dtype: torch.dtype | None = None,
        *,
        ops: Sequence[Op] | None = None,
        uses: LastUses | None = None,
        gradients: bool = False,
        engine: Evaluator | None = None,
        granted: Granted | None = None,
    ) -> None:
        engine = engine or graph.engine
        self._evaluate = engine.evaluate
        self._lacks = engine.lacks
        self._granted = granted
        self._weights = weights
        self._written = graph.written
        self._own: dict[Value, torch.Tensor] = {}
        self._attrs = attrs
        self._dtype = dtype
        self._ops = graph.ops if ops is None else ops
        self._uses = uses or LastUses(self._ops)
        self._gradients = gradients
        self._envs = [dict(known) for known in given]
        self._random = (engine or graph.engine).random
        self._alike: set[Value] = set()

    def steps(self, watch: Watch | None = None) -> Iterator[Op]:
        """Run all operations.

        Args:
            watch: Called before each of them with its operands, once for each chunk.

        Yields:
            Each operation once it has run; its operands are not freed yet.
        """
        for op in self._ops:
            self.step(op, watch)
            yield op
            self.release(op)

    def step(self, op: Op, watch: Watch | None = None) -> None:
        """Run one operation, for those who run two graphs side by side."""
        if self._granted is not None and self._lacks(op):
            results = self._granted(op)
            for env in self._envs:
                env.update(zip(op.outputs, results, strict=True))
            return
        changed = self._attrs.get(op, {})
        held = self._held(op)
        once = self._is_alike(op)
        found: list[torch.Tensor] | None = None
        with torch.set_grad_enabled(self._gradients and torch.is_grad_enabled()):
            for env in self._envs:
                operands = [
                    None if v is None else held[v] if v in held else env[v] for v in op.inputs
                ]
                if watch is not None:
                    watch(op, operands)
                if found is None or not once:
                    found = self._evaluate(op, operands, changed, self._dtype)
                env.update(zip(op.outputs, found, strict=True))

    def _is_alike(self, op: Op) -> bool:
        """Whether an operation gives the same for all chunks: it reads weights alone."""
        read = (v for v in op.inputs if v is not None)
        if len(self._envs) == 1 or is_random(op) or self._random(op):
            return False
        if not all(v.is_weight or v in self._alike for v in read):
            return False
        self._alike.update(op.outputs)
        return True

    def release(self, op: Op) -> None:
        """Free what no later operation reads."""
        for value in self._uses.after(op):
            for env in self._envs:
                env.pop(value, None)

    def holds(self, op: Op) -> bool:
        """Whether all that an operation reads is at hand."""
        read = [v for v in op.inputs if v is not None and not v.is_weight]
        return all(value in env for env in self._envs for value in read)

    def values(self, value: Value) -> list[torch.Tensor]:
        """What a value is, chunk by chunk."""
        return [env[value] for env in self._envs]

    def each(self, value: Value) -> list[torch.Tensor]:
        """What a value is, chunk by chunk, or a weight: the same for all."""
        if not value.is_weight:
            return self.values(value)
        held = self._weight(value)
        assert held is not None, f"PyTorch lacks the type of {value.name}"
        return [held] * len(self._envs)

    def known(self, value: Value) -> torch.Tensor | None:
        """A weight or a value that is at hand, in a run over one input; else None."""
        (env,) = self._envs
        return self._weight(value) if value.is_weight else env.get(value)

    def replace(self, value: Value, tensor: torch.Tensor) -> None:
        """Let later operations read another tensor, over all inputs."""
        for env in self._envs:
            env[value] = tensor

    def operands(self, op: Op) -> list[torch.Tensor | None]:
        """What an operation reads, in a run over one input."""
        (env,) = self._envs
        held = self._held(op)
        return [None if v is None else held[v] if v in held else env[v] for v in op.inputs]

    def again(self, op: Op, dtype: torch.dtype | None = None) -> list[torch.Tensor]:
        """Results of an operation once more, in a run over one input.

        Args:
            op: The operation.
            dtype: Another precision to compute in.
        """
        operands = self.operands(op)
        if dtype is not None:
            operands = [None if x is None else as_dtype(x, dtype) for x in operands]
        with torch.no_grad():
            return self._evaluate(op, operands, self._attrs.get(op, {}), dtype or self._dtype)

    def _held(self, op: Op) -> dict[Value, torch.Tensor | None]:
        """The weights that an operation reads; None where PyTorch lacks their type."""
        return {
            value: self._weight(value)
            for value in op.inputs
            if value is not None and value.is_weight
        }

    def _weight(self, value: Value) -> torch.Tensor | None:
        if value in self._own:
            return self._own[value]
        found = self._weights(value) if value.is_readable else None
        if found is not None and self._dtype is not None:
            found = as_dtype(found, self._dtype)
        if found is not None and value in self._written:
            found = self._own[value] = found.clone()
        return found


def along(graph: Graph, ops: Sequence[Op], source: Value, tensor: torch.Tensor) -> torch.Tensor:
    """What operations in a row make of a tensor, each reading the one before it, in float64.

    Args:
        graph: The graph that they are of.
        ops: The operations, in their order; what else they read is stored.
        source: What the first of them reads.
        tensor: What stands for it.
    """
    run = Run(graph, lambda value: value.tensor, [{source: tensor}], dtype=torch.float64, ops=ops)
    made = tensor
    for op in run.steps():
        (made,) = run.values(op.outputs[0])
    return made


def given_inputs(
    graph: Graph, tensors: Sequence[torch.Tensor], dtype: torch.dtype | None = None
) -> dict[Value, torch.Tensor]:
    """Copies of tensors for the inputs of a graph, in one precision where asked for."""
    return {
        value: (x if dtype is None else as_dtype(x, dtype)).detach().clone()
        for value, x in zip(graph.inputs, tensors, strict=True)
    }


def final_values(
    graph: Graph,
    weights: Callable[[Value], torch.Tensor | None],
    given: Mapping[Value, torch.Tensor],
    attrs: Attrs = MappingProxyType({}),
    dtype: torch.dtype | None = None,
    granted: Granted | None = None,
) -> dict[Value, torch.Tensor]:
    """What a graph returns for one input: the tensors of its outputs, as far as they are known."""
    uses = LastUses(graph.ops, set(graph.outputs))
    run = Run(graph, weights, [given], attrs, dtype, uses=uses, granted=granted)
    for _ in run.steps():
        pass
    out = {value: run.known(value) for value in graph.outputs}
    return {value: tensor for value, tensor in out.items() if tensor is not None}


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


def beside(deps: Dependencies) -> list[bool]:
    """For each input, whether its first dimension counts samples of another kind, as results do.

    So it is with the images that a model compares with texts.
    """
    own, outputs = batch_axis(deps), deps.source.outputs
    found = {axis for v in outputs for dim in deps.dims[v] for axis in leaves(dim)}
    dims = [deps.dims[value] for value in deps.source.inputs]
    firsts = [leaves(d[0]) if d else [] for d in dims]
    return [len(f) == 1 and f[0] is not own and f[0] in found for f in firsts]


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
