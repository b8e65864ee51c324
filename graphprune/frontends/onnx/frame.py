"""The file of a smaller model, as it is written: nodes beside others, constants, stated shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, TensorShapeProto, ValueInfoProto, helper

from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.frontends.onnx.copies import without_initializers
from graphprune.frontends.onnx.functions import closed
from graphprune.frontends.onnx.lift import LiftedFile
from graphprune.frontends.onnx.model import (
    APART,
    Source,
    captured,
    used_names,
)
from graphprune.frontends.onnx.names import renamed, renamed_inside
from graphprune.frontends.onnx.stored import Lowered, Stored
from graphprune.frontends.onnx.tensors import Array

Dimension = TensorShapeProto.Dimension
_NAME = "main"  # of a graph that has none, which runtimes take and the checker does not


class Frame:
    """The smaller model's file.

    Attributes:
        out: The smaller model.
        new: Constants that are cut or new, by name.
    """

    def __init__(self, lifted: LiftedFile, cuts: Cuts) -> None:
        self._lifted, self._cuts = lifted, cuts
        self._source: Source = lifted.source
        self.out = Lowered(without_initializers(self._source.model))
        graph = self.out.frame.graph
        graph.name = graph.name or _NAME
        self._nodes = {name: n for n in graph.node for name in n.output if name}
        self._taken = {name for n in graph.node for name in (*n.input, *n.output)}
        self._taken |= self._source.constants.keys()
        self.new: dict[str, Stored] = {}
        self._inserted: list[tuple[NodeProto, NodeProto]] = []  # each before a node
        self._appended: list[tuple[NodeProto, NodeProto]] = []  # each behind a node
        self._returned: list[NodeProto] = []  # each gives a result of the model anew
        self._cut: dict[str, tuple[int, ...]] = {}

    def finish(self) -> Lowered:
        """The smaller model, whole."""
        self._return()
        self._place()
        self._tensors()
        self._shapes()
        if self._source.whole is not None:
            closed(self.out.frame, self._source.model, self._source.whole)
        return self.out

    def node(self, op: Op) -> Any:
        """The node of an operation."""
        return self._nodes[next(name for name in op.source.proto.output if name)]

    def fresh(self, base: str) -> str:
        """A name that nothing has."""
        number = 1
        while f"{base}_{number}" in self._taken:
            number += 1
        self._taken.add(f"{base}_{number}")
        return f"{base}_{number}"

    def constant(self, base: str, array: Array) -> str:
        """A new initializer."""
        name = self.fresh(base)
        elem_type = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.new[name] = Stored(name, elem_type, array.shape, lambda: array)
        return name

    def insert(self, node: NodeProto, place: int, kind: str, operands: list[str]) -> str:
        """Put an operation before an operand of a node."""
        result = self.fresh(operands[-1] if kind == "Where" else operands[0])
        made = helper.make_node(kind, operands, [result], name=f"{result}/{kind}")
        self._inserted.append((node, made))
        self.feed(node, place, result)
        return result

    def feed(self, node: NodeProto, place: int, name: str) -> None:
        """Let a node, or a graph inside it, read another value at a place."""
        if place < len(node.input):
            node.input[place] = name
            return
        renamed_inside(node, captured(node)[place - len(node.input)], name)

    def returns(self, node: NodeProto) -> None:
        """Let the model return what a node makes, whose operand went by the result's name.

        Whoever else reads the operand goes on reading it, by a new name.
        """
        self._returned.append(node)

    def _return(self) -> None:
        graph = self.out.frame.graph
        for node in self._returned:
            (name,) = node.output
            other = self.fresh(name)
            for _, made in self._inserted:
                made.input[:] = [other if given == name else given for given in made.input]
            renamed(graph, name, other)
            graph.node.append(node)

    def share(self, node: NodeProto, share: float, dtype: str) -> None:
        """Multiply the result of a mean, so that it divides by as many as before."""
        (name,) = node.output
        node.output[0] = self.fresh(name)
        constant = self.constant(f"{name}_share", np.asarray(share, dtype))
        made = helper.make_node("Mul", [node.output[0], constant], [name], name=f"{name}/Mul")
        self._appended.append((node, made))

    def _place(self) -> None:
        """Put the new nodes before those that need them, or behind those that they need."""
        if not self._inserted and not self._appended:
            return
        graph = self.out.frame.graph
        before, behind = _by_result(self._inserted), _by_result(self._appended)
        nodes: list[NodeProto] = []
        for node in graph.node:
            for name in node.output:
                nodes += before.get(name, [])
            nodes.append(node)
            for name in node.output:
                nodes += behind.get(name, [])
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)

    def _tensors(self) -> None:
        """Old initializers that are used, cut ones in their places, new ones behind."""
        graph = self.out.frame.graph
        self._drop()
        self._in_place()
        used = used_names(graph)
        for proto in self._source.model.graph.initializer:
            if proto.name not in used:
                _remove(graph.input, proto.name)
                self.new.pop(proto.name, None)
            elif proto.name in self.new:
                self.out.tensors.append(self.new.pop(proto.name))
            else:
                self.out.tensors.append(self._kept(proto))
        self.out.tensors += (tensor for name, tensor in self.new.items() if name in used)
        if self.out.frame.ir_version < APART:
            given = {item.name for item in graph.input}
            graph.input.extend(
                helper.make_tensor_value_info(tensor.name, tensor.elem_type, tensor.shape)
                for tensor in self.out.tensors
                if tensor.name not in given
            )

    def _drop(self) -> None:
        """Drop nodes that nothing uses, those that never were used among them."""
        graph = self.out.frame.graph
        while True:
            used = used_names(graph)
            dead = [node for node in graph.node if not used.intersection(node.output)]
            for node in dead:
                graph.node.remove(node)
            if not dead:
                return

    def _kept(self, proto: TensorProto) -> Stored:
        name = proto.name
        return Stored(
            name,
            proto.data_type,
            tuple(proto.dims),
            lambda: self._source.array(name),
            proto,
            self._source.is_apart(name),
        )

    def _in_place(self) -> None:
        """Cut the values of Constant nodes."""
        for node in self.out.frame.graph.node:
            if node.op_type == "Constant" and node.output[0] in self.new:
                stored = self.new.pop(node.output[0])
                self._cut[stored.name] = stored.shape
                node.attribute[0].CopyFrom(helper.make_attribute("value", stored.as_proto()))

    def _shapes(self) -> None:
        graph = self.out.frame.graph
        self._cut.update((tensor.name, tensor.shape) for tensor in self.out.tensors)
        for item in graph.output:  # what the checker asks for, of any length
            value, tensor = self._lifted.values.get(item.name), item.type.HasField("tensor_type")
            if value is not None and tensor and not item.type.tensor_type.HasField("shape"):
                item.type.tensor_type.shape.dim.extend(Dimension() for _ in value.shape)
        for item in (*graph.input, *graph.output, *graph.value_info):
            if not item.type.tensor_type.HasField("shape"):
                continue
            if item.name in self._lifted.values:
                self._reshape(item, self._lifted.values[item.name])
            elif self._source.origins.get(item.name) in self._cut:
                new = self._cut[self._source.origins[item.name]]
                for dim, size in zip(item.type.tensor_type.shape.dim, new, strict=False):
                    dim.dim_value = size

    def _reshape(self, item: ValueInfoProto, value: Value) -> None:
        dims = item.type.tensor_type.shape.dim
        if len(dims) != len(value.shape):  # stated wrongly
            del dims[:]
            dims.extend(Dimension() for _ in value.shape)
        for dim, kept, size in zip(dims, self._cuts.kept(value), value.shape, strict=True):
            if dim.HasField("dim_value") and dim.dim_value != size:  # stated wrongly
                dim.Clear()
            elif kept is not None and dim.HasField("dim_value"):
                dim.dim_value = len(kept)
            elif kept is not None:  # it follows from the inputs' sizes, as heads times samples do
                dim.Clear()


def _by_result(pairs: list[tuple[NodeProto, NodeProto]]) -> dict[str, list[NodeProto]]:
    """New nodes by the first result of the node that each stands beside."""
    out: dict[str, list[NodeProto]] = {}
    for node, made in pairs:
        out.setdefault(next(name for name in node.output if name), []).append(made)
    return out


def _remove(items: Any, name: str) -> None:
    for item in items:
        if item.name == name:
            items.remove(item)
            return
