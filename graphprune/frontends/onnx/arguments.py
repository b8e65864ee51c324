"""Which operands of a node are data, which are arguments, and the attributes of both kinds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto

from graphprune.frontends.onnx.model import Source
from graphprune.frontends.onnx.tensors import Array, is_float
from graphprune.frontends.onnx.trace import Trace, schema

_MOST = 1 << 16  # indices of a Gather that are looked at

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "CenterCropPad": ("shape",),
    "Col2Im": ("image_shape", "block_shape"),
    "ConstantOfShape": ("input",),
    "CumProd": ("axis",),
    "CumSum": ("axis",),
    "DFT": ("dft_length", "axis"),
    "Expand": ("shape",),
    "MaxUnpool": ("output_shape",),
    "OneHot": ("depth",),
    "Pad": ("pads", "axes"),
    "Range": ("start", "limit", "delta"),
    "Reshape": ("shape",),
    "Resize": ("roi", "scales", "sizes"),
    "Slice": ("starts", "ends", "axes", "steps"),
    "Split": ("split",),
    "Squeeze": ("axes",),
    "Tile": ("repeats",),
    "TopK": ("K",),
    "Trilu": ("k",),
    "Unsqueeze": ("axes",),
    "Upsample": ("scales",),
}
"""Operands that say how rather than what, by the names of the schemas."""


@dataclass(frozen=True, eq=False)
class Node:
    """Where an operation comes from.

    Attributes:
        proto: The node.
        arguments: Operands that became attributes: place and attribute name.
        operands: Origin of each operand that is a weight or a known value: place and name.
        source: The model.
        types: ONNX element type of every argument, by place.
    """

    proto: NodeProto
    arguments: Mapping[int, str]
    operands: Mapping[int, str]
    source: Source
    types: Mapping[int, int]

    def dtype(self, place: int) -> Any:
        """Element type of an argument in the file, as NumPy names it."""
        return onnx.helper.tensor_dtype_to_np_dtype(self.types[place])

    def follows(self, place: int) -> bool:
        """Whether an argument must be of the type that the operation computes in."""
        if not is_float(self.types[place]):
            return False
        version = self.source.opsets.get(self.proto.domain, 0)
        known = schema(self.proto.op_type, self.proto.domain, version)
        return known is not None and "(" not in known.inputs[place].type_str


def arguments_of(node: NodeProto, source: Source) -> dict[int, str]:
    """Place and name of the operands that become attributes."""
    if node.domain:
        return {}
    if node.op_type == "Gather":
        return _indices(node, source)
    names = ARGUMENTS.get(node.op_type, ())
    if node.op_type.startswith("Reduce"):
        names = ("axes",)
    known = schema(node.op_type, "", source.opsets.get("", 0))
    if not names or known is None:
        return {}
    places = {item.name: place for place, item in enumerate(known.inputs)}
    found = {places[name]: name for name in names if places.get(name, 99) < len(node.input)}
    return {place: name for place, name in found.items() if node.input[place]}


def _indices(node: NodeProto, source: Source) -> dict[int, str]:
    """What a Gather takes: a single index, or (`run`) the first n of them in a new shape."""
    name = node.input[1]
    if name not in source.constants or not 0 < prod(source.constants[name].dims) <= _MOST:
        return {}
    taken = source.array(name).ravel()
    if taken.size == 1:
        return {1: "indices"}
    return {1: "run"} if (taken == np.arange(taken.size)).all() else {}


def as_operand(name: str, value: Any, dtype: Any) -> Array:
    """The reverse of an operand's becoming an attribute."""
    if name == "run":
        value = np.arange(prod(value)).reshape(value)
    return np.asarray(value, dtype)


def operand_name(node: NodeProto, source: Source, place: int) -> str:
    """What the schema calls an operand, or its place where it has no name."""
    known = schema(node.op_type, node.domain, source.opsets.get(node.domain, 0))
    if known is None or place >= len(known.inputs):
        return str(place)
    return str(known.inputs[place].name)


def attribute_values(node: NodeProto, source: Source) -> dict[str, Any]:
    """A node's attributes, defaults filled in; text decoded, graphs and tensors left out."""
    out: dict[str, Any] = {}
    known = schema(node.op_type, node.domain, source.opsets.get(node.domain, 0))
    for name, entry in ({} if known is None else known.attributes).items():
        if entry.default_value.type:
            out[name] = _plain(onnx.helper.get_attribute_value(entry.default_value))
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, int | float | bytes | list):
            out[attribute.name] = _plain(value)
    return out


def _plain(value: Any) -> Any:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def attributes(
    node: NodeProto, arguments: Mapping[int, str], source: Source, trace: Trace
) -> tuple[dict[str, Any], str | None]:
    """Attributes, defaults and arguments; and the name of an argument that is not known."""
    attrs = dict(attribute_values(node, source))
    missing = None
    for place, name in arguments.items():
        given = node.input[place]
        if not given:
            continue
        value = trace.known.get(given)
        if value is None and given in source.constants:
            value = source.array(given)
        if value is None:
            missing = f"{name} depends on the data"
        else:
            attrs[name] = list(value.shape) if name == "run" else value.tolist()
    old = source.opsets.get("", 0) < 13 and not node.domain
    if old and node.op_type in ("Softmax", "LogSoftmax", "Hardmax"):
        attrs["flatten"] = 1
    if node.op_type == "Split" and not node.domain:
        sizes = [trace.shape(name) for name in node.output]
        at = attrs["axis"]
        attrs.setdefault("split", [size[at] for size in sizes if size is not None])
    return attrs, missing
