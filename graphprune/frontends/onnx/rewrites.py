"""rewrites: a copy of a file that computes what a draft of its graph says.

1. Nodes get new initializers for new numbers: under the old name where no other node uses it.
2. Nodes that went are bridged: who read their result reads what stands for it. A result that the
   model returns keeps its name.
3. Nodes and initializers that nothing uses go. Everything else stays as it was.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import onnx
from onnx import GraphProto, ModelProto, NodeProto, helper

from graphprune.core.graph import Op, Value
from graphprune.core.rewrites import Draft, Drop, Rewrite, Weigh
from graphprune.frontends.onnx.copies import without_initializers
from graphprune.frontends.onnx.lift import LiftedFile, lift
from graphprune.frontends.onnx.model import (
    APART,
    Source,
    captured,
    indexed,
    used_names,
)
from graphprune.frontends.onnx.names import fresh
from graphprune.frontends.onnx.tensors import as_array, to_proto
from graphprune.frontends.onnx.trace import schema


def refuses(lifted: LiftedFile, rewrite: Rewrite, draft: Draft) -> str:
    """Why a rewrite cannot be made of a file, or nothing.

    Args:
        lifted: The lifted file.
        rewrite: The rewrite.
        draft: The graph that it was found on.
    """
    ops = {op.name: op for op in draft.ops}
    bodies = {name for node in lifted.source.nodes for name in captured(node)}
    if rewrite.slight and not _at_any_size(lifted, ops, rewrite):
        return "it changes something at other sizes of the inputs"
    for step in rewrite.steps:
        op = ops[step.op]
        if op.source is None:
            return "it follows from the sizes of the inputs"
        if isinstance(step, Drop) and (why := _unbridged(draft, op, step, bodies)):
            return why
        if isinstance(step, Weigh) and step.tensor is None and not _optional(op, step.place):
            return f"{op.type} cannot do without it"
        if isinstance(step, Weigh) and step.place >= len(op.source.proto.input) + 1:
            return "operands before it are left out"
    return ""


def _at_any_size(lifted: LiftedFile, ops: dict[str, Op], rewrite: Rewrite) -> bool:
    """Whether what hands on its operand at the sizes that are analysed does so at others."""
    first, last = rewrite.steps[0], ops[rewrite.steps[-1].op]
    source = ops[first.op].inputs[first.place]
    if isinstance(first, Weigh) or source is None:
        return True
    shapes = [lifted.traces.second.shape(v.name) for v in (source, last.outputs[0])]
    return shapes[0] is not None and shapes[0] == shapes[1]


def _optional(op: Op, place: int) -> bool:
    """Whether a node can do without an operand."""
    proto = op.source.proto
    known = schema(proto.op_type, proto.domain, op.source.source.opsets.get(proto.domain, 0))
    if known is None or place >= len(known.inputs):
        return False
    return bool(known.inputs[place].option == onnx.defs.OpSchema.FormalParameterOption.Optional)


def _unbridged(draft: Draft, op: Op, step: Drop, bodies: set[str]) -> str:
    """Why nothing can stand for the result of a node."""
    operand, result = op.inputs[step.place], op.outputs[0]
    names = [name for name in op.source.proto.output if name]
    if operand is None or len(names) > 1:
        return "it has several results"
    if result.name in bodies or operand.name in bodies:
        return "the body of another node reads it"
    if result in draft.outputs and (
        operand in draft.outputs or operand not in draft.makers() or operand.is_weight
    ):
        return "the model returns it beside what it reads"
    return ""


def rewritten(lifted: LiftedFile, draft: Draft) -> LiftedFile:
    """The lifted copy of a file that computes what a draft says.

    Args:
        lifted: The lifted file.
        draft: Its graph, rewritten.

    Raises:
        LiftError: The copy cannot be lifted.
    """
    source = _Copy(lifted.source, draft).changed()
    made = lift(source, lifted.examples)
    _restate(made)
    return replace(made, warnings=lifted.warnings)


def _restate(made: LiftedFile) -> None:
    """Bring shapes that the file states up to date: two layers made one have other channels."""
    for item in made.source.model.graph.value_info:
        shapes = [trace.shape(item.name) for trace in (made.traces.first, made.traces.second)]
        dims = item.type.tensor_type.shape.dim
        for at, dim in enumerate(dims):
            lengths = {
                None if shape is None or len(shape) != len(dims) else shape[at] for shape in shapes
            }
            if dim.HasField("dim_value") and lengths != {dim.dim_value}:
                dim.Clear()


class _Copy:
    """A copy of the protobuf, being changed."""

    def __init__(self, source: Source, draft: Draft) -> None:
        self._source, self._draft = source, draft
        self._model: ModelProto = without_initializers(source.model)
        self._graph: GraphProto = self._model.graph
        self._nodes: dict[str, NodeProto] = {
            name: n for n in self._graph.node for name in n.output if name
        }
        self._uses = Counter(
            name for n in self._graph.node for name in (*n.input, *captured(n)) if name
        )
        self._uses.update(item.name for item in self._graph.output)
        self._kept = {proto.name: proto for proto in source.model.graph.initializer}
        self._taken = {*self._nodes, *self._kept, *(i.name for i in self._graph.input)}

    def changed(self) -> Source:
        """The new source."""
        before = {op.name: op for op in self._draft.source.ops}
        alive = {op.name for op in self._draft.ops}
        for (name, place), value in self._draft.operands.items():
            if name in alive:
                self._weigh(before[name], place, value)
        self._bridge(before)
        self._sweep()
        return indexed(replace(
            self._source, model=self._model, whole=None, constants={}, origins={}, nodes=[],
            opsets={}, _arrays={}, bytes=self._source.own_bytes(),
        ))  # fmt: skip

    # --- weights ----------------------------------------------------------------------------

    def _weigh(self, op: Op, place: int, value: Value | None) -> None:
        node = self._node(op)
        while len(node.input) <= place:
            node.input.append("")
        if value is None:
            node.input[place] = ""
            while node.input and not node.input[-1]:
                node.input.pop()
            return
        name = self._named(node, place)
        like = op.inputs[place] if place < len(op.inputs) else None
        like = like or next(v for v in op.inputs if v is not None and v.is_weight)
        array = as_array(value.tensor)
        origin = op.source.operands.get(op.inputs.index(like))
        held = None if origin is None else self._source.constants.get(origin)
        elem_type = helper.np_dtype_to_tensor_dtype(array.dtype) if held is None else held.data_type
        self._kept[name] = to_proto(array, name, elem_type)
        node.input[place] = name

    def _node(self, op: Op) -> Any:
        return self._nodes[next(name for name in op.source.proto.output if name)]

    def _named(self, node: Any, place: int) -> str:
        """The name of new numbers: the old one where they replace all uses of it."""
        old = node.input[place]
        if old in self._kept and self._uses[old] == 1:
            return str(old)
        return fresh(str(old or f"{node.name or node.output[0]}.bias"), self._taken)

    # --- nodes ------------------------------------------------------------------------------

    def _bridge(self, before: dict[str, Op]) -> None:
        """Let readers of results that went read what stands for them."""
        stands = {
            self._name(before[name]): value.name for name, value in self._draft.dropped.items()
        }
        final: dict[str, str] = {}
        for name in stands:
            other = name
            while other in stands:
                other = stands[other]
            final[name] = other
        gone = [node for node in self._graph.node if any(n in stands for n in node.output)]
        for node in gone:
            self._graph.node.remove(node)
        returned = {item.name for item in self._graph.output}
        back = {other: name for name, other in final.items() if name in returned}
        for node in self._graph.node:
            for place, name in enumerate(node.input):
                name = final.get(name, name)
                node.input[place] = back.get(name, name)
            for place, name in enumerate(node.output):
                node.output[place] = back.get(name, name)

    def _name(self, op: Op) -> str:
        return next(str(name) for name in op.source.proto.output if name)

    def _sweep(self) -> None:
        """Take out what nothing uses."""
        graph = self._graph
        while True:
            used = used_names(graph)
            dead = [node for node in graph.node if not used.intersection(node.output)]
            if not dead:
                break
            for node in dead:
                graph.node.remove(node)
        graph.initializer.extend(proto for name, proto in self._kept.items() if name in used)
        made = {name for node in graph.node for name in node.output}
        for item in [i for i in graph.value_info if i.name not in made]:
            graph.value_info.remove(item)
        given = {proto.name for proto in self._source.model.graph.initializer}
        for item in [i for i in graph.input if i.name in given - used]:
            graph.input.remove(item)
        if self._model.ir_version < APART:
            listed = {item.name for item in graph.input}
            graph.input.extend(
                helper.make_tensor_value_info(proto.name, proto.data_type, list(proto.dims))
                for proto in graph.initializer
                if proto.name not in listed
            )


__all__ = ["refuses", "rewritten"]
