"""Low-rank adapters (Hu et al. 2022): a narrow pair of layers beside a frozen one.

Their rank is what their checkpoints were made with, and costs next to nothing: it stays, unless the
caller names the adapters' layers in `ratios` or `limits`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from graphprune.core.graph import Graph, Op, Value
from graphprune.rules.readings import Reading, reading

WHY = "the rank of a low-rank adapter"
_PASSED = 4  # operations that may stand before a layer of the pair (dropout, a factor, a cast)


def ranks(graph: Graph) -> Iterator[tuple[Value, int]]:
    """The dimensions of weights that are the rank of an adapter, those of both layers.

    Such a pair is trained, reads what a frozen layer reads, and is narrower than that on both
    sides.

    Yields:
        A weight and its dimension.
    """
    parameters = [v for v in graph.parameters() if v.is_readable]
    if all(v.tensor.requires_grad for v in parameters):
        return
    makers = {value: op for op in graph.ops for value in op.outputs}
    found = {op.outputs[0]: r for op in graph.ops if isinstance(r := reading(op), Reading)}
    trained = {
        value: r
        for value, r in found.items()
        if r.weight.kind == "parameter" and r.weight.tensor.requires_grad
    }
    frozen = {
        _origin(r.source, makers): r
        for r in found.values()
        if r.weight.kind == "parameter" and not r.weight.tensor.requires_grad
    }
    for outer in trained.values():
        inner = trained.get(_origin(outer.source, makers, trained))
        base = frozen.get(_origin(inner.source, makers)) if inner is not None else None
        if inner is None or base is None:
            continue
        output = 1 - inner.inner if inner.inner in (0, 1) else 0
        if inner.weight.shape[output] < min(base.weight.shape[:2]):
            yield inner.weight, output
            yield outer.weight, outer.inner


def _origin(value: Value, makers: Mapping[Value, Op], stop: Container[Value] = ()) -> Value:
    """What a value was before operations that keep its shape."""
    for _ in range(_PASSED):
        op = makers.get(value)
        source = op.inputs[0] if op is not None and op.inputs else None
        if value in stop or source is None or source.shape != value.shape:
            break
        value = source
    return value
