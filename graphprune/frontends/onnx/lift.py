"""lift: an ONNX model as a neutral graph.

1. Operations that shapes and integer constants determine are left out: their values are known.
2. Operands that are arguments rather than data (a Reshape's shape, a Slice's bounds, axes) become
   attributes, under the names of the operator's schema; so do attributes left at their default.
3. Exporters merge constants of equal value. Each use gets its own copy, unless it is a matrix that
   holds more than one value: equal by chance it is not, so it is one weight used twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import onnx
import torch
from onnx import NodeProto

from graphprune.errors import LiftError
from graphprune.frontends.onnx.execute import observe
from graphprune.frontends.onnx.model import Source, captured
from graphprune.frontends.onnx.sizes import Traces, choose, inputs_for
from graphprune.frontends.onnx.tensors import (
    Array,
    as_torch,
    dtype_name,
    is_float,
)
from graphprune.frontends.onnx.trace import schema
from graphprune.graph import Graph, Kind, Op, Value

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "CenterCropPad": ("shape",),
    "Col2Im": ("image_shape", "block_shape"),
    "ConstantOfShape": ("input",),
    "CumSum": ("axis",),
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

SIZES = "values that follow from the sizes of inputs"

_STATISTICS = (3, 4)  # operands of a BatchNormalization that training does not learn


@dataclass(frozen=True, eq=False)
class Node:
    """Where an operation comes from.

    Attributes:
        proto: The node.
        arguments: Operands that became attributes: place and attribute name.
        operands: Origin of each operand that is a weight or a known value: place and name.
        source: The model.
    """

    proto: NodeProto
    arguments: Mapping[int, str]
    operands: Mapping[int, str]
    source: Source


@dataclass
class OnnxProgram:
    """A lifted model.

    Attributes:
        source: The model as it was read.
        traces: Shapes and known values at two sets of sizes.
        graph: The neutral graph.
        values: Inputs and results of the graph by their names in the file.
        examples: Example inputs that the caller gave.
        warnings: What the caller should know.
    """

    source: Source
    traces: Traces
    graph: Graph
    values: Mapping[str, Value]
    examples: Mapping[str, Array] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What the report calls the model."""
        return self.source.label

    @property
    def inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """The caller's example inputs, as positional and keyword arguments."""
        if not self.examples:
            return None
        return (), {name: torch.from_numpy(item) for name, item in self.examples.items()}

    def batch(self) -> int:
        """Samples in the inputs that the analysis assumes."""
        first = self.graph.inputs[0].shape if self.graph.inputs else ()
        return first[0] if first else 1

    def outside(self) -> int:
        """Elements of the parameters that the graph does not reach."""
        return 0

    def flat_inputs(self, seed: int = 0) -> list[torch.Tensor]:
        """Inputs of the sizes that the analysis assumes: the caller's, else random ones."""
        given = inputs_for(self.traces.inputs[0], self.examples, seed)
        tensors = [as_torch(array) for array in given.values()]
        return [tensor for tensor in tensors if tensor is not None]


def lift(source: Source, examples: Mapping[str, Array]) -> OnnxProgram:
    """Turn a model into the neutral graph.

    Args:
        source: The model.
        examples: Example inputs by name; they settle the sizes of dynamic dimensions.

    Raises:
        LiftError: The model cannot be analysed; the message names the cause and the way out.
    """
    known = {item.name for item in source.inputs}
    for name in examples:
        if name not in known:
            raise LiftError(f"{source.label} has no input {name!r}: its inputs are {sorted(known)}")
    traces = choose(source, examples, {})
    made = (name for node in source.nodes for name in node.output if name)
    unknown = [name for name in made if traces.first.shape(name) is None]
    if unknown:
        observed = observe(source, inputs_for(traces.inputs[0], examples, 0), unknown)
        traces = choose(source, examples, observed)
    reader = _Reader(source, traces)
    for node in source.nodes:
        if not all(name in traces.first.folded for name in node.output if name):
            reader.read(node)
    reader.finish()
    return OnnxProgram(source, traces, reader.graph, reader.values, examples)


class _Reader:
    def __init__(self, source: Source, traces: Traces) -> None:
        self.graph = Graph([], [], [], {})
        self._source, self._traces, self._trace = source, traces, traces.first
        self.values: dict[str, Value] = {}
        self._uses: Counter[str] = Counter()
        self._shared: dict[str, bool] = {}
        self._names: set[str] = set()
        for node in source.nodes:
            arguments = _arguments(node, source)
            for place, name in enumerate(node.input):
                if name in source.origins and place not in arguments:
                    self._uses[source.origins[name]] += 1
        self._makers = {
            name: node
            for node in source.nodes
            if node.op_type not in ("Shape", "Size")
            for name in node.output
            if name in traces.first.folded
        }
        for item in source.inputs:
            type_ = traces.inputs[0][item.name].tensor_type
            shape = tuple(dim.dim_value for dim in type_.shape.dim)
            value = Value(item.name, shape, dtype_name(type_.elem_type), "input")
            self.values[item.name] = value
            self.graph.inputs.append(value)

    def read(self, node: NodeProto) -> None:
        """Add one node."""
        name = self._named(node)
        arguments = _arguments(node, self._source)
        attrs, missing = self._attributes(node, arguments)
        kind = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        places: dict[int, str] = {}
        inputs: list[Value | None] = []
        for place, given in enumerate([*node.input, *captured(node)]):
            if not given or place in arguments:
                inputs.append(None)
                continue
            value = self._operand(node, name, place, given, places)
            missing = missing or (None if value else f"{given} is of unknown shape")
            inputs.append(value)
        outputs = [self._result(given) for given in node.output if given]
        if "" in node.output[: len(outputs)] and node.op_type not in ("LSTM", "GRU", "RNN"):
            missing = missing or "a result in the middle is left out"
        if missing or None in outputs:
            kind = f"{kind} ({missing or 'its results are of unknown shape'})"
        made = [value for value in outputs if value is not None]
        op = Op(name, kind, inputs, made, attrs, "", Node(node, arguments, places, self._source))
        self.graph.ops.append(op)

    def _named(self, node: NodeProto) -> str:
        base = node.name or f"{node.op_type}_{node.output[0]}"
        name = base if base not in self._names else f"{base}_{len(self._names)}"
        self._names.add(name)
        return name

    def _attributes(
        self, node: NodeProto, arguments: Mapping[int, str]
    ) -> tuple[dict[str, Any], str | None]:
        """Attributes, defaults and arguments; and the name of an argument that is not known."""
        attrs = dict(attribute_values(node, self._source))
        missing = None
        for place, name in arguments.items():
            given = node.input[place]
            if not given:
                continue
            value = self._trace.known.get(given)
            if value is None and given in self._source.constants:
                value = self._source.array(given)
            if value is None:
                missing = f"{name} depends on the data"
            else:
                attrs[name] = value.tolist()
        old = self._source.opsets.get("", 0) < 13 and not node.domain
        if old and node.op_type in ("Softmax", "LogSoftmax", "Hardmax"):
            attrs["flatten"] = 1
        if node.op_type == "Split" and not node.domain:
            sizes = [self._trace.shape(name) for name in node.output]
            at = attrs["axis"]
            attrs.setdefault("split", [size[at] for size in sizes if size is not None])
        return attrs, missing

    def _operand(
        self, node: NodeProto, op: str, place: int, given: str, places: dict[int, str]
    ) -> Value | None:
        if given in self.values:
            return self.values[given]
        if given in self._source.constants:
            places[place] = self._source.origins[given]
            return self._weight(node, op, place, places[place])
        if given in self._trace.known:
            if self._varies(given) and given in self._makers:
                self.read(self._makers[given])
                return self.values[given]
            places[place] = given
            return self._known(op, given)
        return None

    def _varies(self, name: str) -> bool:
        """Whether a known tensor is another one at other sizes of the inputs."""
        return self._trace.known[name].size > 1 and not self._traces.fixed(name)

    def _known(self, op: str, given: str) -> Value:
        """A value that shapes determine: a constant unless it varies with the inputs' sizes."""
        array = self._trace.known[given]
        name = f"{given}@{op}"
        value = Value(name, array.shape, array.dtype.name, "constant")
        value.tensor = as_torch(array)
        if self._varies(given):
            value.kind = "result"
            made = Op(f"sizes/{name}", SIZES, [], [value], {}, "", None)
            self.graph.ops.append(made)
        else:
            self.graph.weights[name] = value
        return value

    def _weight(self, node: NodeProto, op: str, place: int, origin: str) -> Value:
        proto = self._source.constants[origin]
        alias = f"{node.name or op}.{_operand_name(node, self._source, place)}"
        first = origin not in self.graph.weights
        if not first and not self._apart(origin):
            value = self.graph.weights[origin]
            value.aliases = (*value.aliases, alias)
            return value
        name = origin if first else f"{origin}@{op}.{place}"
        array = self._source.array(origin)
        value = Value(name, tuple(proto.dims), dtype_name(proto.data_type))
        value.kind = self._kind(node, place, proto)
        value.tensor = as_torch(array)
        value.aliases = (alias,)
        self.graph.weights[name] = value
        return value

    def _apart(self, origin: str) -> bool:
        """Whether each use of a constant has a copy of its own."""
        if origin not in self._shared:
            proto = self._source.constants[origin]
            apart = len(proto.dims) < 2 or not prod(proto.dims)
            if not apart:
                array = self._source.array(origin)
                first = array.reshape(-1)[:1]
                apart = bool((array == first).all())
            self._shared[origin] = apart
        return self._shared[origin]

    def _kind(self, node: NodeProto, place: int, proto: onnx.TensorProto) -> Kind:
        if node.op_type == "BatchNormalization" and place in _STATISTICS:
            return "buffer"
        quantized = proto.data_type not in (*onnx_integers(), onnx.TensorProto.STRING)
        learned = is_float(proto.data_type) or (
            quantized
            and (
                "Quantize" in node.op_type or "Linear" in node.op_type or "Integer" in node.op_type
            )
        )
        return "parameter" if learned and prod(proto.dims) > 1 else "constant"

    def _result(self, name: str) -> Value | None:
        shape = self._trace.shape(name)
        if shape is None:
            return None
        value = Value(name, shape, dtype_name(self._trace.elem_type(name)))
        self.values[name] = value
        return value

    def finish(self) -> None:
        for item in self._source.model.graph.output:
            if item.name in self.values:
                self.graph.outputs.append(self.values[item.name])


def onnx_integers() -> tuple[int, ...]:
    """Element types of indices and lengths."""
    return (onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.BOOL)


def _arguments(node: NodeProto, source: Source) -> dict[int, str]:
    """Place and name of the operands that become attributes."""
    if node.domain:
        return {}
    names = ARGUMENTS.get(node.op_type, ())
    if node.op_type.startswith("Reduce"):
        names = ("axes",)
    known = schema(node.op_type, "", source.opsets.get("", 0))
    if not names or known is None:
        return {}
    places = {item.name: place for place, item in enumerate(known.inputs)}
    found = {places[name]: name for name in names if places.get(name, 99) < len(node.input)}
    return {place: name for place, name in found.items() if node.input[place]}


def _operand_name(node: NodeProto, source: Source, place: int) -> str:
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
