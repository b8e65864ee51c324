"""Reading nodes into the neutral graph.

Exporters merge constants of equal value. Each use gets its own copy, unless it is a matrix that
holds more than one value: equal by chance it is not, so it is one weight used twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from math import prod

import numpy as np
import onnx
import torch
from onnx import NodeProto

from graphprune.core.graph import Graph, Kind, Op, Value
from graphprune.frontends.onnx.arguments import Node, arguments_of, attributes, operand_name
from graphprune.frontends.onnx.execute import engine
from graphprune.frontends.onnx.model import Source, captured, stored_as, subgraphs
from graphprune.frontends.onnx.own import type_name
from graphprune.frontends.onnx.sizes import Traces
from graphprune.frontends.onnx.tensors import INTEGERS, as_torch, dtype_name
from graphprune.rules.concat import VARYING
from graphprune.rules.facts import found
from graphprune.rules.registry import is_partial

SIZES = "values that follow from the sizes of inputs"

# Operations with a bias, and which operand it is: one of one number, or of integers, is one too.
_BIASED = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2, "QLinearConv": 8, "QGemm": 6}
_NUMBERS = {"DequantizeLinear": 0}  # operands of integers of any size that stand for numbers
_CUTS = ("Pad", "Slice", "Split")  # nodes that cut dimensions at places that are arguments
_STATISTICS = (3, 4)  # operands of a BatchNormalization that training does not learn


class Mapped(Value):
    """A weight in a file of its own: mapped while it is used, and no longer."""

    __slots__ = ("_origin", "_readable", "_source")

    def __init__(
        self, name: str, shape: tuple[int, ...], dtype: str, source: Source, origin: str
    ) -> None:
        self._source, self._origin = source, origin
        self._readable = as_torch(np.empty(0, stored_as(source.constants[origin]))) is not None
        super().__init__(name, shape, dtype)

    @property
    def is_readable(self) -> bool:
        """Whether PyTorch has the type of the elements: the file need not be read for it."""
        return self._readable

    @property
    def tensor(self) -> torch.Tensor | None:
        """The weight, on memory that is the file's."""
        return as_torch(self._source.array(self._origin))

    @tensor.setter
    def tensor(self, given: None) -> None:
        """Its elements are the file's."""


class Reader:
    """Reads nodes into the neutral graph."""

    def __init__(self, source: Source, traces: Traces) -> None:
        self.graph = Graph([], [], [], {}, engine())
        self._source, self._traces, self._trace = source, traces, traces.first
        self.values: dict[str, Value] = {}
        self._uses: Counter[str] = Counter()
        self._shared: dict[str, bool] = {}
        self._names: set[str] = set()
        for node in source.nodes:
            arguments = arguments_of(node, source)
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
        arguments = arguments_of(node, self._source)
        attrs, missing = attributes(node, arguments, self._source, self._trace)
        if varying := self._varying(node, arguments):
            attrs[VARYING] = varying
        arguments = {place: given for place, given in arguments.items() if given in attrs}
        kind = type_name(node)
        places: dict[int, str] = {}
        inputs: list[Value | None] = []
        unknown = False
        for place, given in enumerate([*node.input, *captured(node)]):
            if not given or place in arguments:
                inputs.append(None)
                continue
            value = self._operand(node, name, place, given, places)
            if value is None:
                missing, unknown = missing or f"{given} is of unknown shape", True
            elif value.is_weight and not value.is_readable and value.dtype != "string":
                missing = missing or f"{given} is of type {value.dtype}"
            inputs.append(value)
        outputs = [self._result(given) for given in node.output if given]
        if "" in node.output[: len(outputs)] and not is_partial(kind):
            missing = missing or "a result in the middle is left out"
        made = [value for value in outputs if value is not None]
        if unknown or len(made) < len(outputs):  # it is not run: what is known of it is of no use
            missing = missing or "its results are of unknown shape"
            for value in made:
                del self.values[value.name]
            made = []
        if missing:
            kind = f"{kind} ({missing})"
        types = {place: self._trace.elem_type(node.input[place]) for place in arguments}
        origin = Node(node, arguments, places, self._source, types)
        op = Op(name, kind, inputs, made, attrs, "", origin)
        self.graph.ops.append(op)
        _mark_steps(op)

    def _named(self, node: NodeProto) -> str:
        base = node.name or f"{node.op_type}_{node.output[0]}"
        name = base if base not in self._names else f"{base}_{len(self._names)}"
        self._names.add(name)
        return name

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
            return self._known(op, place, given)
        return None

    def _varying(self, node: NodeProto, arguments: Mapping[int, str]) -> list[int]:
        """Which entries of the arguments that cut a dimension are others at other sizes."""
        if node.op_type not in _CUTS or node.domain:
            return []
        found: set[int] = set()
        for place, name in arguments.items():
            given = node.input[place]
            if name != "axes" and given in self._trace.known:
                found.update(np.flatnonzero(~self._traces.steady(given)).tolist())
        return sorted(found)

    def _varies(self, name: str) -> bool:
        """Whether a known tensor is another one at other sizes of the inputs."""
        return self._trace.known[name].size > 1 and not self._traces.fixed(name)

    def _known(self, op: str, place: int, given: str) -> Value:
        """A value that shapes determine: a constant unless it varies with the inputs' sizes.

        An operation may read one twice: each place has its own.
        """
        array = self._trace.known[given]
        name = f"{given}@{op}"
        if name in self._names:
            name = f"{name}.{place}"
        self._names.add(name)
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
        alias = f"{node.name or op}.{operand_name(node, self._source, place)}"
        first = origin not in self.graph.weights
        if not first and not self._apart(origin):
            shared = self.graph.weights[origin]
            shared.aliases = (*shared.aliases, alias)
            return shared
        value = self._stored(origin if first else f"{origin}@{op}.{place}", origin)
        value.kind = self._kind(node, place, self._source.constants[origin])
        if not value.is_readable:  # of a type that torch lacks: nothing is cut, nor scored
            value.kind = "constant"
        value.aliases = (alias,)
        self.graph.weights[value.name] = value
        return value

    def _stored(self, name: str, origin: str) -> Value:
        proto = self._source.constants[origin]
        shape, dtype = tuple(proto.dims), dtype_name(proto.data_type)
        if self._source.is_external(origin):
            return Mapped(name, shape, dtype, self._source, origin)
        return Value(name, shape, dtype, tensor=as_torch(self._source.array(origin)))

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
        biased = _BIASED.get(node.op_type) == place
        # Indices are of 32 bits or more: what is of fewer stands for numbers, whoever reads it.
        numbers = biased or _NUMBERS.get(node.op_type) == place
        learned = numbers or proto.data_type not in (*INTEGERS, onnx.TensorProto.STRING)
        return "parameter" if learned and (prod(proto.dims) > 1 or biased) else "constant"

    def _result(self, name: str) -> Value | None:
        type_ = self._trace.types.get(name)
        shape = self._trace.shape(name)
        if type_ is None:
            return None
        if shape is None:  # no tensor: a number stands for it
            kind = str(type_.WhichOneof("value")).removesuffix("_type")
            value = Value(name, (), kind)
        else:
            value = Value(name, shape, dtype_name(self._trace.elem_type(name)))
        self.values[name] = value
        return value

    def finish(self) -> None:
        """Add the outputs; those of lengths alone are read, so that what they follow from holds."""
        for item in self._source.model.graph.output:
            if item.name in self._makers and item.name not in self.values:
                self.read(self._makers[item.name])
            if item.name in self.values:
                self.graph.outputs.append(self.values[item.name])
        self.graph.outside = sum(map(self._inside, self._source.nodes))

    def _inside(self, node: NodeProto) -> int:
        """Elements of the parameters that the graphs inside a node hold."""
        total = 0
        for graph in subgraphs(node):
            held = {tensor.name: tensor for tensor in graph.initializer}
            for inner in graph.node:
                if inner.op_type == "Constant":
                    value = next((a.t for a in inner.attribute if a.name == "value"), None)
                    if value is not None:
                        held[inner.output[0]] = value
                for place, name in enumerate(inner.input):
                    proto = held.get(name)
                    if proto is not None and self._kind(inner, place, proto) == "parameter":
                        total += prod(held.pop(name).dims)
                total += self._inside(inner)
        return total


def _mark_steps(op: Op) -> None:
    """Count scales and zero points among the buffers: they say what other numbers stand for."""
    told = found(op)
    for how in (*told.encodings.values(), *told.made.values()):
        for value in how.held:
            if value.kind == "parameter":
                value.kind = "buffer"
