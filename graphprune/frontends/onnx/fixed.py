"""fixed: lengths of inputs that the file leaves open, but that its weights settle.

An input is followed through what keeps its dimensions (arithmetic with constants, transposes,
padding) to the first operation whose weight says how many channels it reads. Both follow from the
operations' rules.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from graphprune.core.graph import Kind, Op, Value
from graphprune.frontends.onnx.arguments import arguments_of, attribute_values
from graphprune.frontends.onnx.model import Source
from graphprune.frontends.onnx.own import type_name
from graphprune.rules import lengths
from graphprune.rules.facts import is_elementwise

Places = list["int | None"]
"""For each dimension of a tensor the dimension of the input that it is."""


def settled(source: Source) -> dict[tuple[str, int], int]:
    """Lengths by input and dimension."""
    makers = {name: node for node in source.nodes for name in node.output}
    found: dict[tuple[str, int], int] = {}
    for item in source.inputs:
        rank = len(item.type.tensor_type.shape.dim)
        own = {item.name: list[int | None](range(rank))}
        for node in source.nodes:
            ways = [place for place, name in enumerate(node.input) if name in own]
            if len(ways) != 1:
                continue
            places = own[node.input[ways[0]]]
            op, whole = _operation(node, source, makers, ways[0], len(places))
            for at, size in lengths.settled(op, ways[0]).items():
                place = places[at]
                if place is not None:
                    found.setdefault((item.name, place), size)
            if whole and node.output:
                kept = lengths.kept(op, ways[0])
                own[node.output[0]] = [None if at is None else places[at] for at in kept]
    return found


def _operation(
    node: NodeProto, source: Source, makers: Mapping[str, NodeProto], place: int, rank: int
) -> tuple[Op, bool]:
    """A node as an operation of which the lengths of one operand are open.

    Returns:
        The operation, and whether all its other operands are known.
    """
    attrs, arguments, whole = attribute_values(node, source), arguments_of(node, source), True
    inputs: list[Value | None] = []
    for at, name in enumerate(node.input):
        shape = (0,) * rank if at == place else _shape(source, makers, name)
        if name and at in arguments and name in source.constants:
            attrs[arguments[at]] = source.array(name).tolist()
        elif name and shape is None:
            whole = False
        held = at not in arguments and shape is not None
        kind: Kind = "result" if at == place else "parameter"
        inputs.append(Value(name, shape or (), "float32", kind) if held else None)
    return Op(node.name, type_name(node), inputs, [], attrs), whole


def _shape(source: Source, makers: Mapping[str, NodeProto], name: str) -> tuple[int, ...] | None:
    """The shape of a constant, or of one behind what acts on each element by itself."""
    if name in source.constants:
        return tuple(source.constants[name].dims)
    maker = makers.get(name)
    if maker is None or not maker.input or not is_elementwise(type_name(maker)):
        return None
    return _shape(source, makers, maker.input[0])
