"""A file without what only readers need: names of inner values and nodes, stated shapes, doubles.

In the file of a small network these can take more bytes than int8 weights do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing graphprune does not import onnx
    from onnx import GraphProto, ModelProto

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def lean(original: ModelProto) -> ModelProto:
    """A copy of a model with short names; inputs, results and what the file says of itself stay."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(original)
    graph = model.graph
    fixed = {item.name for item in (*graph.input, *graph.output)}
    short = _Short(fixed)
    _share(graph, fixed, short)
    _rename(graph, short)
    return model


class _Short:
    """Short names: each name gets one of its own, whatever graph it stands in."""

    def __init__(self, fixed: Collection[str]) -> None:
        self._names = {"": "", **{name: name for name in fixed}}
        self._new = (name for name in _words() if name not in fixed)

    def __call__(self, name: str) -> str:
        if name not in self._names:
            self._names[name] = next(self._new)
        return self._names[name]

    def same(self, name: str, other: str) -> None:
        """Let a name be that of another value."""
        self._names[name] = self(other)


def _words() -> Iterator[str]:
    for number in count():
        word = ""
        while number or not word:
            number, digit = divmod(number, len(_LETTERS))
            word += _LETTERS[digit]
        yield word


def _share(graph: GraphProto, fixed: Collection[str], short: _Short) -> None:
    """Keep one of several equal constants."""
    from onnx import TensorProto, numpy_helper

    plain = {
        TensorProto.FLOAT,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT32,
        TensorProto.INT64,
    }
    seen: dict[bytes, str] = {}
    kept = []
    for proto in graph.initializer:
        name = proto.name
        if proto.data_location != proto.EXTERNAL:
            proto.ClearField("name")
            if proto.data_type in plain:  # numbers may be stored one by one
                proto.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(proto)))
            key = proto.SerializeToString()
            proto.name = name
            if name not in fixed and seen.setdefault(key, name) != name:
                short.same(name, seen[key])
                continue
        kept.append(type(proto).FromString(proto.SerializeToString()))
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _rename(graph: GraphProto, short: _Short) -> None:
    from graphprune.frontends.onnx.model import subgraphs

    graph.ClearField("value_info")  # runtimes infer shapes
    for noted in graph.quantization_annotation:
        noted.tensor_name = short(noted.tensor_name)
        for entry in noted.quant_parameter_tensor_names:
            entry.value = short(entry.value)
    for node in graph.node:
        for field in ("name", "doc_string", "metadata_props"):
            node.ClearField(field)
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
        for body in subgraphs(node):
            _rename(body, short)
            for item in (*body.input, *body.output):
                item.name = short(item.name)
    for proto in graph.initializer:
        proto.ClearField("doc_string")
        proto.name = short(proto.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = short(sparse.values.name)
