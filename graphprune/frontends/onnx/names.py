"""Other names for values, wherever they are made or read, graphs inside nodes included."""

from __future__ import annotations

from onnx import GraphProto, NodeProto

from graphprune.frontends.onnx.model import subgraphs


def renamed(graph: GraphProto, old: str, new: str) -> None:
    """Call a value by another name wherever nodes, and graphs inside them, make or read it.

    Results of the graph that go by the name keep it.
    """
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
        renamed_inside(node, old, new)


def renamed_inside(node: NodeProto, old: str, new: str) -> None:
    """Let the graphs inside a node read an outer value by another name."""
    for body in subgraphs(node):
        own = {item.name for item in (*body.input, *body.initializer)}
        if old not in own.union(*(inner.output for inner in body.node)):
            renamed(body, old, new)
            for item in body.output:
                item.name = new if item.name == old else item.name


def fresh(base: str, taken: set[str]) -> str:
    """A name that is not taken, and is so from now on: the base, with a number where it must be.

    Args:
        base: What it begins with.
        taken: Names that are taken; the new one is added.
    """
    name, number = base, 0
    while name in taken:
        number += 1
        name = f"{base}_{number}"
    taken.add(name)
    return name
