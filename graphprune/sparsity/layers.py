"""layers: the weights that can become sparse, each as a matrix, and why others are left alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import torch

from graphprune.compensation.consumer import Consumer
from graphprune.compensation.consumers import find_consumers
from graphprune.core.errors import AxisError
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.groups import Dependencies, matches
from graphprune.rules.facts import looked_up
from graphprune.rules.products import products
from graphprune.rules.readings import Reading, folded, reading, recurrent
from graphprune.sparsity.patterns import Pattern

_HALF = 0.5  # of all numbers, which the first and the last layers hold at most where they stay
_TABLE = "it is a table of embeddings too"
_FIRST, _LAST = "it reads the model's inputs", "it writes the model's outputs"
_OTHERWISE = "operations that share it read it in different ways"
_COMPUTED = "its weight is computed from others, as quantized weights are"


@dataclass(frozen=True)
class View:
    """A weight as a matrix: `outputs x (kernel positions x channels)`.

    Attributes:
        shape: Of the weight.
        inner: The dimension that is summed over.
        groups: Groups of a grouped convolution; their outputs lie behind each other.
        plain: Whether the first two dimensions are outputs and channels, in either order, and
            others are kernel positions; else all but `inner` are outputs.
    """

    shape: tuple[int, ...]
    inner: int
    groups: int = 1
    plain: bool = True

    @property
    def channels(self) -> int:
        """How many channels each output reads."""
        size = self.shape[self.inner]
        return size // self.groups if self.inner == 0 and self.plain else size

    @property
    def kernel(self) -> tuple[int, ...]:
        """The dimensions behind outputs and channels."""
        return self.shape[2:] if self.plain else ()

    @property
    def columns(self) -> int:
        """Width of the matrix."""
        return self.channels * prod(self.kernel)

    @property
    def outputs(self) -> int:
        """Outputs of each group."""
        return prod(self.shape) // max(self.columns * self.groups, 1)

    def rows(self, weight: torch.Tensor) -> torch.Tensor:
        """The matrix of a weight."""
        if not self.plain:
            return weight.movedim(self.inner, -1).reshape(-1, self.columns)
        taps = folded(weight, self.inner, self.groups)
        return taps.transpose(2, 3).reshape(-1, self.columns)

    def weight(self, rows: torch.Tensor) -> torch.Tensor:
        """The weight of a matrix."""
        if not self.plain:
            others = [size for at, size in enumerate(self.shape) if at != self.inner]
            return rows.reshape(*others, -1).movedim(-1, self.inner).contiguous()
        taps = rows.reshape(self.groups, self.outputs, -1, self.channels).transpose(2, 3)
        taps = taps.reshape(*taps.shape[:3], *self.kernel)
        if self.inner == 0:
            taps = taps.transpose(1, 2)
        return taps.reshape(self.shape).contiguous()


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight that can become sparse.

    Attributes:
        weight: The weight.
        view: How it is seen as a matrix.
        consumers: The linear operations that read through it; none where it cannot be solved for.
        ops: The operations that read it.
        free: Whether zeros can lie as the pattern wants them.
    """

    weight: Value
    view: View
    ops: tuple[Op, ...]
    consumers: tuple[Consumer, ...] = ()

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return prod(self.view.shape)

    def rows(self) -> torch.Tensor:
        """Its numbers as a matrix, in at least single precision."""
        held = self.weight.tensor.detach()
        return self.view.rows(held if held.dtype == torch.float64 else held.float())


@dataclass
class Layers:
    """The layers of a model.

    Attributes:
        layers: Those that can become sparse, in the order in which they are first read.
        left: Weights that are left alone, with the reason.
    """

    layers: list[Layer] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def find_layers(
    deps: Dependencies, pattern: Pattern, keep: Collection[str] | None = None
) -> Layers:
    """The weights that linear operations read.

    Args:
        deps: The analysis.
        pattern: How zeros may lie.
        keep: Name patterns of those that stay as they are; None for the usual ones: what reads
            the model's inputs and what writes its outputs, unless they hold most of the numbers,
            and what is a table of embeddings too.

    Raises:
        AxisError: A name pattern matches no weight.
    """
    graph, out = deps.source, Layers()
    views: dict[Value, set[View]] = {}
    ops: dict[Value, list[Op]] = {}
    for op in graph.ops:
        for value, view in _read(op):
            if value.kind == "parameter":
                views.setdefault(value, set()).add(view)
                ops.setdefault(value, []).append(op)
    out.left.update(_computed(graph))
    held = find_consumers(deps).by_op
    by_weight: dict[Value, list[Consumer]] = {}
    plain = (c for several in held.values() for c in several if c.beside is None)
    for consumer in plain:
        by_weight.setdefault(consumer.weight, []).append(consumer)
    for value, seen in views.items():
        why = _refused(value, seen, pattern)
        if why:
            out.left[value.name] = why
            continue
        (view,) = seen
        known = tuple(by_weight.get(value, ()))
        out.layers.append(Layer(value, view, tuple(ops[value]), known))
    kept = _usual(graph, ops, out.layers) if keep is None else _named(graph, keep)
    out.left.update({layer.weight.name: kept[layer.weight] for layer in out.layers
                     if layer.weight in kept})  # fmt: skip
    out.layers = [layer for layer in out.layers if layer.weight not in kept]
    return out


def _readings(op: Op) -> list[Reading]:
    """How an operation reads, as far as it is linear."""
    found = reading(op)
    return recurrent(op) or ([found] if isinstance(found, Reading) else [])


def _read(op: Op) -> Iterator[tuple[Value, View]]:
    """The weights that an operation multiplies with what it reads, and sums."""
    found = _readings(op)
    for read in found:
        if read.weight.is_weight and len(read.weight.shape) > 1:
            plain = read.windows or len(read.weight.shape) == 2
            yield read.weight, View(read.weight.shape, read.inner, read.groups, plain)
    if found:
        return
    for product in products(op):
        sides = (product.weight, product.weight_letters), (product.x, product.x_letters)
        for value, letters in sides:
            inner = [at for at, held in enumerate(letters) if product.contracted & set(held)]
            if value.is_weight and len(value.shape) > 1 and len(inner) == 1:
                yield value, View(value.shape, inner[0], plain=False)


def _refused(value: Value, seen: Collection[View], pattern: Pattern) -> str:
    """Why a weight cannot become sparse, or nothing."""
    if not isinstance(value.tensor, torch.Tensor) or not value.tensor.is_floating_point():
        return f"its numbers are {value.dtype}: quantize after this"
    if len(seen) > 1:
        return _OTHERWISE
    (view,) = seen
    return pattern.refuses(view.outputs, view.channels)


def _computed(graph: Graph) -> dict[str, str]:
    """Operations whose weights follow from others."""
    derived = graph.derived()
    out = {}
    for op in graph.ops:
        for read in _readings(op) if derived.keys().isdisjoint(op.outputs) else ():
            if read.weight in derived:
                out[op.name] = _COMPUTED
    return out


def _usual(
    graph: Graph, read: Mapping[Value, Collection[Op]], layers: Collection[Layer]
) -> dict[Value, str]:
    """What stays as it is where the caller names nothing.

    Args:
        graph: The graph.
        read: The operations that multiply by each weight, whether it can become sparse or not.
        layers: Those that can.
    """
    out: dict[Value, str] = {}
    by_op: dict[Op, list[Value]] = {}
    for weight, ops in read.items():
        for op in ops:
            by_op.setdefault(op, []).append(weight)
    first, last = _first(graph, by_op), _last(graph, by_op)
    for layer in layers:
        if layer.weight in first:
            out[layer.weight] = _FIRST
        elif layer.weight in last:
            out[layer.weight] = _LAST
    held = sum(layer.size for layer in layers if layer.weight in out)
    if held > _HALF * sum(layer.size for layer in layers):
        out = {}
    tables = {pair[0] for op in graph.ops if (pair := looked_up(op)) is not None}
    out.update({layer.weight: _TABLE for layer in layers if layer.weight in tables})
    return out


def _first(graph: Graph, by_op: Mapping[Op, Collection[Value]]) -> set[Value]:
    """Weights that are multiplied with what no weight was multiplied with before."""
    fresh = set(graph.inputs)
    out: set[Value] = set()
    for op in graph.ops:
        reads = [v for v in op.inputs if v is not None and not v.is_weight]
        if op in by_op:
            if any(v in fresh for v in reads):
                out.update(by_op[op])
        elif looked_up(op) is None and reads and all(v in fresh for v in reads):
            fresh.update(op.outputs)
    return out


def _last(graph: Graph, by_op: Mapping[Op, Collection[Value]]) -> set[Value]:
    """Weights behind which no other weight is multiplied."""
    within: set[Value] = set()  # what some layer reads, at once or later
    out: set[Value] = set()
    for op in reversed(graph.ops):
        reads = [v for v in op.inputs if v is not None]
        before = any(v in within for v in op.outputs)
        if op in by_op and not before:
            out.update(by_op[op])
        if op in by_op or before:
            within.update(reads)
    return out


def _named(graph: Graph, keep: Collection[str]) -> dict[Value, str]:
    """The weights that the caller names."""
    out = {}
    for pattern in keep:
        found = [value for value in graph.weights.values() if matches(value, pattern)]
        if not found:
            raise AxisError(f"keep: {pattern!r} matches no weight of the model")
        out.update(dict.fromkeys(found, f"kept on request ({pattern})"))
    return out
