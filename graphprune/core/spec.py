"""spec: what every lifted graph must be, checked before passes work on it.

1. Every operand is an input, a weight, or the result of an operation before.
2. No operation has the result of another, and no two values share a name.
3. Shapes are whole numbers, none below zero; weights have the shape that they are said to have.
4. Whatever the graph returns is one of its values.
"""

from __future__ import annotations

from graphprune.core.errors import LiftError
from graphprune.core.graph import Graph, Value


def check_spec(graph: Graph) -> None:
    """Refuse a graph that is not well formed.

    Raises:
        LiftError: Names the first operation or value that breaks a rule, and the rule.
    """
    names: dict[str, Value] = {}
    for value in (*graph.inputs, *graph.weights.values()):
        _check_value(value, names, "the graph")
    for value in graph.weights.values():
        held = getattr(value.tensor, "shape", None)
        if held is not None and tuple(held) != value.shape:
            raise LiftError(f"weight {value.name} has shape {tuple(held)}, not {value.shape}")
    known = {*graph.inputs, *graph.weights.values()}
    for op in (*graph.ops, *graph.training):
        for operand in op.inputs:
            if operand is not None and operand not in known:
                what = f"{op.name} ({op.type}) reads {operand.name}"
                raise LiftError(f"{what}, which nothing has made")
        for value in op.outputs:
            _check_value(value, names, f"{op.name} ({op.type})")
            known.add(value)
    for value in graph.outputs:
        if value not in known:
            raise LiftError(f"the graph returns {value.name}, which nothing has made")


def _check_value(value: Value, names: dict[str, Value], where: str) -> None:
    if names.setdefault(value.name, value) is not value:
        raise LiftError(f"{where}: there are two values called {value.name}")
    if not all(type(size) is int and size >= 0 for size in value.shape):
        raise LiftError(f"{where}: {value.name} has shape {value.shape}: whole numbers are needed")
