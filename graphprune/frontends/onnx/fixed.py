"""fixed: lengths of inputs that the file leaves open, but that its weights settle.

An input is followed through what keeps its dimensions (arithmetic with constants, transposes,
padding) to the first operation whose weight says how many channels it reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto, helper

from graphprune.frontends.onnx.model import Source
from graphprune.frontends.onnx.own import type_name
from graphprune.rules.facts import is_elementwise

Places = list["int | None"]
"""For each dimension of a tensor the dimension of the input that it is."""

_LAST = ("MatMul", "LayerNormalization", "RMSNormalization", "MatMulInteger")
_SECOND = ("BatchNormalization", "InstanceNormalization", "PRelu")
_RECURRENT = ("LSTM", "GRU", "RNN")
_KEEP = ("Pad", "DynamicQuantizeLinear")  # beside what acts on each element by itself


def settled(source: Source) -> dict[tuple[str, int], int]:
    """Lengths by input and dimension."""
    found: dict[tuple[str, int], int] = {}
    for item in source.inputs:
        rank = len(item.type.tensor_type.shape.dim)
        own = {item.name: list[int | None](range(rank))}
        for node in source.nodes:
            if node.input and node.input[0] in own:
                for at, size in _read(source, node, own[node.input[0]]).items():
                    found.setdefault((item.name, at), size)
            _follow(node, source, own)
    return found


def _read(source: Source, node: NodeProto, places: Places) -> dict[int, int]:
    """Lengths of the input that a node's constants settle."""
    shapes = [_shape(source, name) for name in node.input]
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    weight = next((s for s in shapes[1:] if s is not None and len(s) > 0), None)
    wanted: dict[int, int] = {}
    if weight is None:
        return {}
    if node.op_type in ("Conv", "ConvInteger", "FusedConv"):
        wanted = {1: weight[1] * attrs.get("group", 1)}
    elif node.op_type == "QLinearConv":
        kernel = shapes[3]
        wanted = {} if kernel is None else {1: kernel[1] * attrs.get("group", 1)}
    elif node.op_type == "ConvTranspose":
        wanted = {1: weight[0]}
    elif node.op_type == "Gemm" and not attrs.get("transA"):
        wanted = {1: weight[1 if attrs.get("transB") else 0]}
    elif node.op_type in _LAST:
        wanted = {len(places) - 1: weight[max(len(weight) - 2, 0)]}
    elif node.op_type in _SECOND and len(weight) == 1:
        wanted = {1: weight[0]}
    elif node.op_type in _RECURRENT:
        wanted = {2: weight[2]}
    elif node.op_type in ("Add", "Sub", "Mul", "Div"):
        start = len(places) - len(weight)
        wanted = {start + at: size for at, size in enumerate(weight) if size > 1}
    out: dict[int, int] = {}
    for at, size in wanted.items():
        place = places[at] if 0 <= at < len(places) else None
        if place is not None:
            out[place] = size
    return out


def _shape(source: Source, name: str) -> Sequence[int] | None:
    """The shape of a constant, or of one behind a `DequantizeLinear`."""
    if name in source.constants:
        return tuple(source.constants[name].dims)
    maker = next((n for n in source.nodes if name in n.output), None)
    if maker is not None and maker.op_type == "DequantizeLinear":
        return _shape(source, maker.input[0])
    return None


def _follow(node: NodeProto, source: Source, own: dict[str, Places]) -> None:
    """The dimensions of a node's first result, where they are those of an operand."""
    known = [name for name in node.input if name in own]
    if len(known) != 1:
        return
    places = own[known[0]]
    kind = type_name(node)
    if kind == "Transpose":
        perm = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
        order = perm or list(range(len(places)))[::-1]
        own[node.output[0]] = [places[at] for at in order]
    elif kind in _KEEP or is_elementwise(kind):
        rest = [_shape(source, name) for name in node.input if name and name != known[0]]
        if all(shape is not None and len(shape) <= len(places) for shape in rest):
            own[node.output[0]] = places
