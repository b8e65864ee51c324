"""Reading an ONNX model: a file, a ModelProto or an onnx-graphsurgeon graph.

The protobuf itself is kept, so that names, metadata, opsets, functions and sub-byte types stay as
they were. onnx-graphsurgeon converts its own graphs; external data is mapped into memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

from graphprune.core.errors import LiftError
from graphprune.core.files import as_path
from graphprune.frontends.onnx.copies import without_initializers
from graphprune.frontends.onnx.kernels import told_apart
from graphprune.frontends.onnx.slim import OwnFile, is_inside
from graphprune.frontends.onnx.sparse import dense
from graphprune.frontends.onnx.tensors import Array, external_path, read

APART = 4  # the first version of the format in which initializers are not inputs as well
HELD = 1 << 26  # bytes of large weights that stay in memory once they were read from the file
OLDEST = 7  # the first opset with today's broadcasting, and with shape inference for its operators


@dataclass
class Source:
    """A model as it was read; only ever read.

    Attributes:
        model: The protobuf.
        folder: Where external data lies; None for a model that is not a file.
        label: What messages call it.
        kind: What the caller gave: `"file"`, `"proto"` or `"graphsurgeon"`.
        constants: Initializers and the values of Constant nodes, by every name they go by.
        origins: For each of these names the one under which the data is stored.
        nodes: All other nodes, in an order in which they can run.
        opsets: Version of each domain's operators.
        whole: The protobuf before its calls of local functions were opened; None without any.
        file: The file that the protobuf was read from, where there is one.
        bytes: Of the protobuf as it was given, where nodes were rewritten since; else 0.
    """

    model: ModelProto
    folder: Path | None
    label: str
    kind: str
    constants: dict[str, TensorProto] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    nodes: list[NodeProto] = field(default_factory=list)
    opsets: dict[str, int] = field(default_factory=dict)
    whole: ModelProto | None = None
    file: OwnFile | None = None
    bytes: int = 0
    _arrays: dict[str, Array] = field(default_factory=dict)
    _held: int = 0

    def array(self, name: str) -> Array:
        """The elements of a constant."""
        origin = self.origins[name]
        if self.is_external(origin):
            return self._from_file(origin)
        if origin not in self._arrays:
            self._arrays[origin] = read(self.constants[origin], self.folder)
        return self._arrays[origin]

    def _from_file(self, origin: str) -> Array:
        """Read anew each time, so that what was read before can go, but for the first few."""
        proto = self.constants[origin]
        if self.file is None or not is_inside(proto):
            return read(proto, self.folder)
        self.file.check()
        if origin in self._arrays:
            return self._arrays[origin]
        found = self.file.read(proto)
        if self._held + found.nbytes <= HELD:
            self._held += found.nbytes
            self._arrays[origin] = found
        return found

    def is_external(self, name: str) -> bool:
        """Whether a constant's data was left in a file, and is read when it is used."""
        return self.constants[name].data_location == TensorProto.EXTERNAL

    def is_apart(self, name: str) -> bool:
        """Whether a constant's data lies in a file of its own."""
        return self.is_external(name) and not is_inside(self.constants[name])

    def weight(self) -> int:
        """Bytes of the model as it is stored, data in files of their own included."""
        own = self.own_bytes()
        apart = (proto for proto in self.model.graph.initializer if self.is_apart(proto.name))
        for proto in apart:
            own += prod(proto.dims) * int(np.dtype(stored_as(proto)).itemsize)
        return own

    def own_bytes(self) -> int:
        """Bytes of the protobuf as it was given."""
        if self.file is not None:
            return self.file.size
        return self.bytes or int((self.whole or self.model).ByteSize())

    @cached_property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """What the caller of the model provides: initializers listed as inputs do not count."""
        return [i for i in self.model.graph.input if i.name not in self.constants]


def stored_as(proto: TensorProto) -> Any:
    """The element type of a constant, as numpy has it."""
    return helper.tensor_dtype_to_np_dtype(proto.data_type)


def read_model(model: Any) -> Source:
    """Read a model.

    Raises:
        LiftError: There is no such file, it is not an ONNX file, or the graph is not sound.
    """
    if isinstance(model, str | Path):
        path = as_path(model)
        file = OwnFile(path)
        source = Source(_parsed(file), path.parent, path.name, "file", file=file)
    elif isinstance(model, ModelProto):
        source = Source(model, None, model.graph.name or "the model", "proto")
    else:
        import onnx_graphsurgeon as gs

        source = Source(gs.export_onnx(model), None, model.name or "the model", "graphsurgeon")
    try:
        if (found := dense(source.model)) is not None:
            source.bytes, source.model = source.own_bytes(), found
        if source.model.functions:
            source.whole = source.model
            source.model = onnx.inliner.inline_local_functions(source.model)
        indexed(source)
    except (UnicodeDecodeError, DecodeError) as error:
        raise LiftError(f"{source.label} holds names that are not text: {error}") from error
    return source


def indexed(source: Source) -> Source:
    """A source whose model was set: checked, its nodes sorted and its constants collected.

    Raises:
        LiftError: The graph is not sound.
    """
    _sort(source)
    _check(source)
    _index(source)
    return source


def _sort(source: Source) -> None:
    """Put nodes that stand before what they read, which runtimes take, in an order for all."""
    graph, made = source.model.graph, set[str]()
    later = {name for node in graph.node for name in node.output}
    for node in graph.node:
        if any(name in later and name not in made for name in (*node.input, *captured(node))):
            break
        made.update(node.output)
    else:
        return
    try:
        nodes = [NodeProto.FromString(n.SerializeToString()) for n in ordered(graph, source.label)]
    except LiftError:
        return  # the check says what is wrong
    model = without_initializers(source.model)
    model.graph.initializer.extend(graph.initializer)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    source.bytes, source.model = source.own_bytes(), model


def _parsed(file: OwnFile) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(file.slim())
    except (DecodeError, RuntimeError) as error:
        raise LiftError(f"{file.path} is not an ONNX file, or a damaged one") from error
    if not model.HasField("graph"):
        raise LiftError(f"{file.path} is not an ONNX file: it holds no graph")
    return model


def _check(source: Source) -> None:
    graph, label = source.model.graph, source.label
    source.opsets = {entry.domain: entry.version for entry in source.model.opset_import}
    if "ai.onnx" in source.opsets:
        source.opsets[""] = source.opsets["ai.onnx"]
    version, newest = source.opsets.get("", 0), onnx.defs.onnx_opset_version()
    used = any(not node.domain for node in graph.node)
    if used and not OLDEST <= version <= newest:
        raise LiftError(
            f"{label} uses opset {version}; {OLDEST} to {newest} are known here: convert it with "
            "onnx.version_converter, or install a newer onnx"
        )
    _check_names(source)
    if not graph.node:
        raise LiftError(f"{label} has no nodes: there is nothing to prune")
    for item in graph.input:
        if item.type.WhichOneof("value") != "tensor_type":
            raise LiftError(f"{label}: input {item.name} is not a tensor, which is not supported")
        if not item.type.tensor_type.HasField("shape"):
            raise LiftError(
                f"{label}: input {item.name} states no shape: state it in the file (graph.input); "
                "lengths may stay open"
            )
        kind = item.type.tensor_type.elem_type
        if kind not in TensorProto.DataType.values():
            raise LiftError(f"{label}: input {item.name} has elements of an unknown type, {kind}")
    try:
        onnx.checker.check_model(_skeleton(source.model))
    except onnx.checker.ValidationError as error:
        reason = str(error).split("\n\n")[0].replace("\n", " ")
        raise LiftError(f"{label} is not a valid ONNX model: {reason}") from error
    except RuntimeError as error:
        raise LiftError(f"{label} cannot be checked: {str(error).splitlines()[0]}") from error


def _check_names(source: Source) -> None:
    """Protobuf gives text that is not UTF-8 as bytes."""
    graph = source.model.graph
    nodes = (name for n in graph.node for name in (n.name, n.op_type, *n.input, *n.output))
    items = (item.name for item in (*graph.input, *graph.output, *graph.initializer))
    for name in (*nodes, *items):
        if not isinstance(name, str):
            raise LiftError(f"{source.label} holds a name that is not text: {name!r}")


def _skeleton(model: ModelProto) -> ModelProto:
    """The model without its initializers' data: they count as inputs."""
    out = without_initializers(model)
    told_apart(out)
    del out.graph.value_info[:]
    out.graph.name = out.graph.name or "graph"
    for item in out.graph.output:
        if item.type.HasField("tensor_type"):
            item.type.tensor_type.shape.SetInParent()
    given = {item.name for item in out.graph.input}
    names = Counter(tensor.name for tensor in model.graph.initializer)
    twice = [name for name, times in names.items() if times > 1]
    if twice:
        raise LiftError(f"two initializers are called {twice[0]}")
    for tensor in model.graph.initializer:
        if not tensor.name:
            raise LiftError("an initializer has no name")
        if tensor.name not in given:
            type_ = onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
            out.graph.input.append(onnx.helper.make_value_info(tensor.name, type_))
    return out


def _index(source: Source) -> None:
    """Sort the nodes; collect constants under all their names."""
    graph = source.model.graph
    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL and not is_inside(tensor):
            entries = {entry.key: entry.value for entry in tensor.external_data}
            external_path(entries.get("location", ""), source.folder)
        source.constants[tensor.name] = tensor
        source.origins[tensor.name] = tensor.name
    for node in ordered(graph, source.label):
        if node.op_type == "Constant" and not node.domain:
            constant = _constant(node)
            if constant is not None:
                source.constants[node.output[0]] = constant
                source.origins[node.output[0]] = node.output[0]
                continue
        if node.op_type == "Identity" and not node.domain and node.input[0] in source.constants:
            source.constants[node.output[0]] = source.constants[node.input[0]]
            source.origins[node.output[0]] = source.origins[node.input[0]]
            continue
        source.nodes.append(node)


def _constant(node: NodeProto) -> TensorProto | None:
    """The value of a Constant node; None for strings."""
    (given,) = node.attribute
    if given.name == "value":
        return cast("TensorProto", given.t)
    kinds = {"value_int": "int64", "value_ints": "int64"}
    number = {**kinds, "value_float": "float32", "value_floats": "float32"}.get(given.name)
    if number is None:
        return None
    value = onnx.helper.get_attribute_value(given)
    return onnx.numpy_helper.from_array(np.asarray(value, number), node.output[0])


def ordered(graph: GraphProto, label: str) -> list[NodeProto]:
    """The nodes in an order in which they can run; the present one where it is sound.

    Raises:
        LiftError: Nodes depend on each other in a circle, or on what nothing provides.
    """
    made = {item.name for item in (*graph.input, *graph.initializer)}
    waiting, out = list(graph.node), []
    while waiting:
        later = []
        for node in waiting:
            if all(name in made for name in (*filter(None, node.input), *captured(node))):
                out.append(node)
                made.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            node = later[0]
            name = next(n for n in (*node.input, *captured(node)) if n and n not in made)
            raise LiftError(
                f"{label}: {node.op_type} {node.name or node.output[0]} needs {name!r}, which "
                "nothing provides before it"
            )
        waiting = later
    return out


def captured(node: NodeProto) -> list[str]:
    """Names of outer values that the node's subgraphs use."""
    found: dict[str, None] = {}
    for body in subgraphs(node):
        own = {item.name for item in (*body.input, *body.initializer)}
        for inner in body.node:
            found.update(dict.fromkeys(n for n in (*inner.input, *captured(inner)) if n not in own))
            own.update(inner.output)
        found.update(dict.fromkeys(item.name for item in body.output if item.name not in own))
    return [name for name in found if name]


def used_names(graph: GraphProto) -> set[str]:
    """Names that nodes, subgraphs or the outputs use."""
    used = {name for node in graph.node for name in (*node.input, *captured(node)) if name}
    return used | {item.name for item in graph.output}


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs
