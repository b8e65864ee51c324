"""unpacked: sequences and optionals whose elements are known, as the tensors themselves.

1. What is taken from a sequence at a constant place is the element that was put there.
2. The elements of a sequence that are joined again are joined as tensors: a Concat.
3. A tensor that is split into a sequence is split into tensors: a Split, where its length is known.
4. What is taken from an optional is what was put into it; that something was, and how many elements
   a sequence has, are constants.

Sequences that something else reads (a loop, a caller) stay beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from graphprune.frontends.onnx.copies import without_initializers
from graphprune.frontends.onnx.model import (
    APART,
    Source,
    indexed,
    used_names,
)
from graphprune.frontends.onnx.names import fresh
from graphprune.frontends.onnx.sizes import Traces, is_open
from graphprune.frontends.onnx.tensors import Array

_TAKE = ("SequenceAt", "OptionalGetElement")
_TELL = ("SequenceLength", "OptionalHasElement")
_KINDS = ("ConcatFromSequence", *_TAKE, *_TELL)
_AXES = 13  # from this opset on axes and parts are operands
_MOST = 256  # elements of a sequence that is opened


def unpacked(source: Source, traces: Traces) -> Source | None:
    """A source without sequences of known elements; None where it holds none.

    Args:
        source: The model.
        traces: Shapes of its tensors.
    """
    nodes = source.model.graph.node
    old = source.opsets.get("", 0) < _AXES or source.model.ir_version < APART
    if old or not any(n.op_type in _KINDS and not n.domain for n in nodes):
        return None
    return _Opened(source, traces).changed()


class _Opened:
    """A copy of the protobuf, being changed."""

    def __init__(self, source: Source, traces: Traces) -> None:
        self._source, self._traces = source, traces
        self._model: ModelProto = without_initializers(source.model)
        self._taken = {name for n in source.model.graph.node for name in (*n.input, *n.output)}
        self._taken |= source.constants.keys() | {item.name for item in source.model.graph.input}
        self._elements: dict[str, list[str]] = {}
        self._new: list[Any] = []
        self._found = False

    def changed(self) -> Source | None:
        """The new source, if there is anything to open."""
        graph = self._model.graph
        nodes = [made for node in self._source.nodes for made in self._opened(node)]
        if not self._found:
            return None
        whole = [n for n in graph.node if n.output and n.output[0] in self._source.constants]
        copies = [NodeProto.FromString(n.SerializeToString()) for n in (*whole, *nodes)]
        del graph.node[:]
        graph.node.extend(copies)
        graph.initializer.extend((*self._source.model.graph.initializer, *self._new))
        self._sweep()
        return indexed(replace(
            self._source, model=self._model, constants={}, origins={}, nodes=[], opsets={},
            bytes=self._source.own_bytes(), _arrays={},
        ))  # fmt: skip

    def _sweep(self) -> None:
        """Take out the sequences that nothing reads any more."""
        graph = self._model.graph
        while True:
            used = used_names(graph)
            dead = [n for n in graph.node if n.op_type in _MAKERS and not used & {*n.output}]
            for node in dead:
                graph.node.remove(node)
            if not dead:
                break
        made = {name for node in graph.node for name in node.output}
        for item in [item for item in graph.value_info if item.name not in made]:
            graph.value_info.remove(item)

    # --- nodes ------------------------------------------------------------------------------

    def _opened(self, node: NodeProto) -> list[NodeProto]:
        """What stands for a node: itself, most often; a split stands beside the sequence."""
        read = _MAKERS.get(node.op_type) if not node.domain else None
        if read is not None:
            more: list[NodeProto] = []
            found = read(self, node, more)
            if found is not None and len(found) <= _MOST:
                self._elements[node.output[0]] = found
                return [*more, node]
            return [node]
        if node.domain or node.op_type not in _KINDS or not node.input:
            return [node]
        held = self._elements.get(node.input[0])
        if held is None and self._traces.first.shape(node.input[0]) is not None:
            held = [node.input[0]]  # what no optional holds is there
        if held is None:
            return [node]
        if node.op_type == "ConcatFromSequence":
            return self._joined(node, held)
        name = self._told(node, held) if node.op_type in _TELL else self._taken_from(node, held)
        if name is None:
            return [node]
        self._found = True
        return [helper.make_node("Identity", [name], list(node.output), node.name)]

    def _taken_from(self, node: NodeProto, held: list[str]) -> str | None:
        at = self._number(node.input[1]) if node.op_type == "SequenceAt" else 0
        return None if at is None or not -len(held) <= at < len(held) else held[at]

    def _told(self, node: NodeProto, held: list[str]) -> str:
        there = node.op_type == "OptionalHasElement"
        return self._constant(f"{node.output[0]}_told", np.asarray(there or len(held)))

    def _joined(self, node: NodeProto, held: list[str]) -> list[NodeProto]:
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if not held:
            return [node]
        self._found = True
        axis, out = attrs["axis"], list(node.output)
        if not attrs.get("new_axis", 0):
            return [helper.make_node("Concat", held, out, node.name, axis=axis)]
        place = self._constant(f"{out[0]}_axis", np.asarray([axis]))
        apart = [fresh(f"{name}_apart", self._taken) for name in held]
        made = [
            helper.make_node("Unsqueeze", [name, place], [new], f"{new}/Unsqueeze")
            for name, new in zip(held, apart, strict=True)
        ]
        return [*made, helper.make_node("Concat", apart, out, node.name, axis=axis)]

    # --- sequences --------------------------------------------------------------------------

    def _constructed(self, node: NodeProto, more: list[NodeProto]) -> list[str] | None:
        return list(node.input)

    def _empty(self, node: NodeProto, more: list[NodeProto]) -> list[str] | None:
        return []

    def _passed(self, node: NodeProto, more: list[NodeProto]) -> list[str] | None:
        return self._elements.get(node.input[0])

    def _optional(self, node: NodeProto, more: list[NodeProto]) -> list[str] | None:
        return list(node.input) if node.input and node.input[0] not in self._elements else None

    def _inserted(self, node: NodeProto, more: list[NodeProto]) -> list[str] | None:
        held = self._elements.get(node.input[0])
        at = self._number(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if held is None or (at is None and len(node.input) > 2 and node.input[2]):
            return None
        place = len(held) if at is None else at % len(held) if at < 0 and held else at
        return [*held[:place], node.input[1], *held[place:]]

    def _erased(self, node: NodeProto, more: list[NodeProto]) -> list[str] | None:
        held = self._elements.get(node.input[0])
        at = self._number(node.input[1]) if len(node.input) > 1 and node.input[1] else -1
        if not held or at is None or not -len(held) <= at < len(held):
            return None
        return [name for i, name in enumerate(held) if i != at % len(held)]

    def _split(self, node: NodeProto, more: list[NodeProto]) -> list[str] | None:
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        axis, shape = attrs.get("axis", 0), self._traces.first.shape(node.input[0])
        if shape is None or not self._stays(node.input[0], axis):
            return None
        given = len(node.input) > 1 and bool(node.input[1])
        parts = self._parts(shape[axis], node.input[1] if given else None)
        if parts is None or len(parts) > _MOST:
            return None
        base, whole = node.output[0], given or bool(attrs.get("keepdims", 1))
        names = [fresh(f"{base}_part", self._taken) for _ in parts]
        sizes = self._constant(f"{base}_sizes", np.asarray(parts))
        more.append(
            helper.make_node("Split", [node.input[0], sizes], names, f"{base}/Split", axis=axis)
        )
        if whole:
            return names
        place = self._constant(f"{base}_axis", np.asarray([axis]))
        bare = [fresh(f"{base}_bare", self._taken) for _ in parts]
        more += (
            helper.make_node("Squeeze", [name, place], [new], f"{new}/Squeeze")
            for name, new in zip(names, bare, strict=True)
        )
        return bare

    def _parts(self, length: int, name: str | None) -> list[int] | None:
        """Lengths of the parts."""
        if name is None:
            return [1] * length
        if name not in self._source.origins:
            return None
        given = self._source.array(name)
        if given.ndim:
            return [int(size) for size in given]
        size = int(given)
        return [min(size, length - start) for start in range(0, length, size)]

    def _stays(self, name: str, axis: int) -> bool:
        """Whether a length is the same at all sizes of the inputs."""
        first, second = (t.shape(name) for t in (self._traces.first, self._traces.second))
        if first is None or second is None:
            return False
        tried = self._traces.first is not self._traces.second or not is_open(self._source)
        return tried and first[axis] == second[axis]

    # --- numbers and names ------------------------------------------------------------------

    def _number(self, name: str) -> int | None:
        return int(self._source.array(name)) if name in self._source.origins else None

    def _constant(self, base: str, values: Array) -> str:
        name = fresh(base, self._taken)
        self._new.append(numpy_helper.from_array(values, name))
        return name


_MAKERS: Mapping[str, Any] = {
    "Identity": _Opened._passed,
    "Optional": _Opened._optional,
    "SequenceConstruct": _Opened._constructed,
    "SequenceEmpty": _Opened._empty,
    "SequenceErase": _Opened._erased,
    "SequenceInsert": _Opened._inserted,
    "SplitToSequence": _Opened._split,
}
"""Nodes that make sequences and optionals, with how their elements are read."""
