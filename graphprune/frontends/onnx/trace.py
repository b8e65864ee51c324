"""trace: shapes of every tensor, and the values of those that shapes alone determine.

A walk over the nodes at concrete sizes: each node's own shape inference, and the reference
implementation of every node whose operands are shapes or small integer constants. Chains such as
Shape -> Gather -> Concat -> Reshape are thereby known, whatever they are written as.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, helper, shape_inference
from onnx.reference import ReferenceEvaluator

from graphprune.core.errors import EvaluationError
from graphprune.frontends.onnx.model import Source, subgraphs
from graphprune.frontends.onnx.own import Stated, evaluator, is_own, lacking, types_by_run
from graphprune.frontends.onnx.reference import REPAIRED
from graphprune.frontends.onnx.tensors import INTEGERS, Array

_WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "STFT")
_AS_OPERAND = (  # without inference of their own
    "GroupNormalization",
    "LayerNormalization",
    "MeanVarianceNormalization",
    "SimplifiedLayerNormalization",
)
_MISREAD = {"STFT": "onesided"}  # attributes whose default onnx's inference takes for another
_JOINED = 8  # numbers that stand beside computed ones: no resize has more scales
_MOST = 1 << 16  # elements of a value that is worked out ahead of time


class Misfit(Exception):
    """The sizes chosen for dynamic dimensions do not fit the model."""


@dataclass
class Trace:
    """What is known of a model's tensors at concrete sizes.

    Attributes:
        types: Element type and shape of tensors, by name; missing where unknown.
        known: Values that follow from shapes and from integer constants.
        derived: Names among `known` that depend on the shape of some tensor.
        folded: Outputs of nodes that need not be analysed, since their values are known.
    """

    types: dict[str, TypeProto] = field(default_factory=dict)
    known: dict[str, Array] = field(default_factory=dict)
    derived: set[str] = field(default_factory=set)
    folded: set[str] = field(default_factory=set)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor, or None where it is unknown."""
        return static_shape(self.types[name]) if name in self.types else None

    def elem_type(self, name: str) -> int:
        """The ONNX element type of a tensor, or 0."""
        return self.types[name].tensor_type.elem_type if name in self.types else 0


def static_shape(type_: TypeProto) -> tuple[int, ...] | None:
    """The shape of a tensor type, or None unless every length is a number."""
    if not type_.HasField("tensor_type") or not type_.tensor_type.HasField("shape"):
        return None
    dims = type_.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") for dim in dims):
        return None
    return tuple(dim.dim_value for dim in dims)


def tensor_type(elem_type: int, shape: Iterable[int]) -> TypeProto:
    """The type of a tensor of a known shape."""
    return helper.make_tensor_type_proto(elem_type, list(shape))


@lru_cache(maxsize=4096)
def schema(op_type: str, domain: str, version: int) -> onnx.defs.OpSchema | None:
    """An operator's schema, or None where the domain or the operator is unknown."""
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def walk(source: Source, inputs: Mapping[str, TypeProto], hints: Mapping[str, TypeProto]) -> Trace:
    """Work out shapes and shape-like values.

    Args:
        source: The model.
        inputs: Concrete types of its inputs.
        hints: Types that are known from elsewhere, for nodes that have no shape inference.

    Raises:
        Misfit: The nodes do not accept these sizes.
    """
    trace = Trace(types=dict(inputs))
    stated = Stated(source.model.graph)
    for name in inputs:
        stated.learn(name, trace.shape(name) or ())
    for name, proto in source.constants.items():
        trace.types[name] = tensor_type(proto.data_type, proto.dims)
        if proto.data_type in INTEGERS and prod(proto.dims) <= _MOST:
            trace.known[name] = source.array(name)
    for node in source.nodes:
        _infer(source, node, trace, {**hints, **_own_types(source, node, trace, stated)})
        for name in node.output:
            stated.learn(name, trace.shape(name) or ())
        if node.op_type == "Pad" and not node.domain:
            _check_padding(node, trace)
        if node.op_type == "Reshape" and not node.domain:
            _check_elements(node, trace)
        _fold(source, node, trace)
    for item in source.model.graph.output:
        if 0 in (trace.shape(item.name) or ()):
            raise Misfit(f"output {item.name} is empty")
    return trace


def _infer(source: Source, node: NodeProto, trace: Trace, hints: Mapping[str, TypeProto]) -> None:
    found = _inferred(source, node, trace)
    for name in filter(None, node.output):
        type_ = found.get(name)
        shape = None if type_ is None else static_shape(type_)
        open_ = type_ is None or type_.HasField("tensor_type")
        if open_ and shape is None and name in hints:
            type_ = hints[name]
            shape = static_shape(type_)
        if shape is None and node.op_type in _AS_OPERAND and node.input[0] in trace.types:
            type_ = trace.types[node.input[0]]
            shape = static_shape(type_)
        if type_ is not None and not type_.HasField("tensor_type"):
            trace.types[name] = type_  # a sequence, a map, an optional
            continue
        if type_ is None or shape is None:
            continue
        shrunk = node.op_type in _WINDOWS and 0 in shape
        if min(shape, default=1) < 0 or shrunk:
            raise Misfit(f"{node.op_type} {node.name or name} has a result of shape {shape}")
        trace.types[name] = type_


def _own_types(
    source: Source, node: NodeProto, trace: Trace, stated: Stated
) -> Mapping[str, TypeProto]:
    """Types of the results of an operation that has no schema: stated, or those of a run."""
    if not is_own(node) and lacking(node) is None:
        return {}
    found = {name: type_ for name in node.output if (type_ := stated.type_of(name)) is not None}
    given = [name for name in node.input if name]
    complete = all(name in found for name in node.output if name)
    if complete or evaluator(node) is None or any(name not in trace.types for name in given):
        return found
    try:
        return {**types_by_run(node, trace.types, lambda n: _held(source, n, trace)), **found}
    except EvaluationError as error:
        raise Misfit(str(error)) from error


def _held(source: Source, name: str, trace: Trace) -> Array | None:
    """The elements of a constant or of a known value."""
    if name in trace.known:
        return trace.known[name]
    return source.array(name) if name in source.origins else None


def _check_padding(node: NodeProto, trace: Trace) -> None:
    """Mirrored padding must be shorter than what it mirrors."""
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"constant")
    shape = trace.shape(node.input[0])
    widths = trace.known.get(node.input[1]) if len(node.input) > 1 else None
    if mode != b"reflect" or shape is None or widths is None or len(node.input) > 3:
        return
    if any(width >= size for width, size in zip(widths, (*shape, *shape), strict=True)):
        raise Misfit(f"Pad {node.name} mirrors more than the {shape} there is")


def _check_elements(node: NodeProto, trace: Trace) -> None:
    """A reshape keeps all elements: its inference lets any number pass."""
    before, after = trace.shape(node.input[0]), trace.shape(node.output[0])
    if before is not None and after is not None and prod(before) != prod(after):
        raise Misfit(f"Reshape {node.name or node.output[0]} makes {after} of {before}")


def _apart(source: Source, name: str) -> bool:
    """Whether a known tensor's elements are not in the protobuf."""
    return name not in source.constants or source.is_external(name)


def _inferred(source: Source, node: NodeProto, trace: Trace) -> Mapping[str, TypeProto]:
    known = schema(node.op_type, node.domain, source.opsets.get(node.domain, 0))
    given = [name for name in node.input if name]
    if known is None or any(name not in trace.types for name in given):
        return {}
    data = {
        name: _small(trace.known[name]) if _apart(source, name) else source.constants[name]
        for name in given
        if name in trace.known
    }
    for name in given:  # float arguments: the scales of Resize
        proto = source.constants.get(name)
        if proto is not None and name not in data and prod(proto.dims) <= 16:
            data[name] = _small(source.array(name))
    try:
        return shape_inference.infer_node_outputs(
            known,
            _said(node, known),
            {name: trace.types[name] for name in given},
            data,
            opset_imports=source.model.opset_import,
            ir_version=source.model.ir_version,
        )
    except shape_inference.InferenceError as error:
        if next(subgraphs(node), None) is not None:
            return {}  # the inference does not see what the graphs inside take from this one
        where = f"{node.op_type} {node.name or ', '.join(node.output)}"
        raise Misfit(f"{where}: {_reason(error)}") from error
    except (onnx.checker.ValidationError, RuntimeError, ValueError, KeyError, IndexError):
        return {}


def _said(node: NodeProto, known: onnx.defs.OpSchema) -> NodeProto:
    """A node whose attribute is said where its inference would take another default."""
    name = _MISREAD.get(node.op_type)
    if name is None or node.domain or any(a.name == name for a in node.attribute):
        return node
    out = NodeProto()
    out.CopyFrom(node)
    out.attribute.append(known.attributes[name].default_value)
    return out


def _small(array: Array) -> TensorProto:
    return onnx.numpy_helper.from_array(np.asarray(array))


def _reason(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _fold(source: Source, node: NodeProto, trace: Trace) -> None:
    """Work a node out ahead of time, if shapes and integer constants determine its results."""
    given = [name for name in node.input if name]
    shape = trace.shape(given[0]) if given else None
    if node.op_type in ("Shape", "Size") and not node.domain and shape is not None:
        results = [shape_of(node, shape)]
        derived = True
    else:
        if not given or not _determined(source, given, trace, node.op_type == "Concat"):
            return
        derived = any(name in trace.derived for name in given)
        types = [trace.elem_type(name) for name in node.output]
        if node.domain or not (derived or all(t in INTEGERS for t in types)):
            return
        sizes = [trace.shape(name) for name in node.output]
        if any(size is None or prod(size) > _MOST for size in sizes):
            return
        found = evaluate_node(node, source, [_value(source, name, trace) for name in node.input])
        if found is None:
            return
        results = found
    for name, array in zip(node.output, results, strict=False):
        trace.known[name] = array
        trace.folded.add(name)
        if derived:
            trace.derived.add(name)


def _determined(source: Source, given: list[str], trace: Trace, joined: bool) -> bool:
    """Whether all operands are known; single floating-point constants count beside shapes.

    Where they are joined so do a few: the scales of a resize, ones before those that are computed.
    """
    unknown = [name for name in given if name not in trace.known]
    single = (
        name in source.constants and prod(source.constants[name].dims) <= (_JOINED if joined else 1)
        for name in unknown
    )
    return not unknown or (all(single) and any(name in trace.derived for name in given))


def _value(source: Source, name: str, trace: Trace) -> Array | None:
    if not name:
        return None
    return trace.known[name] if name in trace.known else source.array(name)


def shape_of(node: NodeProto, shape: tuple[int, ...]) -> Array:
    """What `Shape` or `Size` gives for a tensor of this shape."""
    if node.op_type == "Size":
        return np.asarray(prod(shape), np.int64)
    ends = {a.name: a.i for a in node.attribute}
    start, end = ends.get("start", 0), ends.get("end", len(shape))
    return np.asarray(shape[start:end], np.int64)


def evaluate_node(
    node: NodeProto, source: Source, operands: Iterable[Array | None]
) -> list[Array] | None:
    """Run a node's reference implementation; None where there is none, or it fails."""
    feeds = {
        name: value
        for name, value in zip(node.input, operands, strict=True)
        if name and value is not None
    }
    inputs = [helper.make_value_info(name, TypeProto()) for name in feeds]
    outputs = [helper.make_value_info(name, TypeProto()) for name in node.output if name]
    graph = helper.make_graph([node], "node", inputs, outputs)
    try:
        found = ReferenceEvaluator(graph, opsets=source.opsets, new_ops=REPAIRED).run(None, feeds)
    except Exception:  # its errors have no common type
        return None
    return [np.asarray(item) for item in found] if isinstance(found, list) else None
