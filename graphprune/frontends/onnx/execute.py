"""Running ONNX: one operation on given operands.

ONNX Runtime does it where it is installed, in float32; else, or where float64 is asked for, the
reference implementation of the onnx package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, NodeProto, TypeProto, helper
from onnx.reference import ReferenceEvaluator

from graphprune.core.errors import EvaluationError
from graphprune.core.graph import Op
from graphprune.engine.engine import Engine, sharing
from graphprune.frontends.onnx import narrow
from graphprune.frontends.onnx.arguments import as_operand
from graphprune.frontends.onnx.model import captured
from graphprune.frontends.onnx.narrow import widened
from graphprune.frontends.onnx.objects import as_fed, as_value, kind_of, type_of
from graphprune.frontends.onnx.own import evaluator, lacking, type_name
from graphprune.frontends.onnx.own import results as own_results
from graphprune.frontends.onnx.reference import REPAIRED
from graphprune.frontends.onnx.tensors import FLOATS, narrowed, wider
from graphprune.frontends.onnx.trace import schema

if TYPE_CHECKING:
    from graphprune.frontends.onnx.arguments import Node

try:
    import onnxruntime
except ImportError:  # an extra
    onnxruntime = None


_LARGE = 1 << 24  # bytes of operands for which a session is not kept
_ONNX_TYPES = {torch_type: onnx_type for onnx_type, torch_type in FLOATS.items()}


def has_runtime() -> bool:
    """Whether ONNX Runtime is installed."""
    return onnxruntime is not None


def node_of(op: Op, changed: Mapping[str, Any], dtype: torch.dtype) -> NodeProto:
    """An operation's node with new attributes, computing in another floating-point type."""
    source: Node = op.source
    node = NodeProto()
    node.CopyFrom(source.proto)
    held = {attribute.name: attribute for attribute in node.attribute}
    for name, value in changed.items():
        if name in source.arguments.values():
            continue
        if name in held:
            held[name].CopyFrom(helper.make_attribute(name, value))
        elif _takes(source, name):
            node.attribute.append(helper.make_attribute(name, value))
    for attribute in node.attribute:
        if attribute.name in ("to", "dtype") and attribute.i in FLOATS:
            attribute.i = _ONNX_TYPES[dtype]
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in FLOATS:
            array = onnx.numpy_helper.to_array(attribute.t)
            kind = helper.tensor_dtype_to_np_dtype(_ONNX_TYPES[dtype])
            attribute.t.CopyFrom(onnx.numpy_helper.from_array(array.astype(kind)))
    return node


def _takes(source: Node, name: str) -> bool:
    proto = source.proto
    known = schema(proto.op_type, proto.domain, source.source.opsets.get(proto.domain, 0))
    # Of ONNX Runtime's own operators there are no schemas: rules name attributes they have.
    return name in known.attributes if known is not None else bool(proto.domain)


def evaluate(
    op: Op,
    operands: Sequence[torch.Tensor | None],
    changed: Mapping[str, Any],
    dtype: torch.dtype | None = torch.float32,
) -> list[torch.Tensor]:
    """Run one operation.

    Args:
        op: The operation; its `source` is a `Node`.
        operands: Its tensor operands, of the type `dtype` where they are of floating point.
        changed: Attributes with new values, operands that became attributes among them.
        dtype: The floating-point type to compute in.

    Raises:
        RuntimeError: The operation does not accept the operands.
    """
    dtype = dtype or torch.float32
    if op.source is None:  # a value that follows from the sizes of inputs
        return [op.outputs[0].tensor]
    if not op.outputs:  # nothing here knows what it gives, and nothing known reads it
        return []
    if evaluator(op.source.proto) is not None:
        return own_results(op.source.proto, operands, changed, dtype)
    if why := lacks(op):
        raise EvaluationError(why)
    node, feeds = prepared(op, operands, changed, dtype)
    found = run_node(node, op.source.source.opsets, feeds, dtype)
    return [as_value(widened(item)) for item in found]


def reference_engine() -> Engine:
    """The reference implementation in float64."""
    return Engine(sharing(evaluate), torch.float64, native=torch.float32, lacks=lacks)


def runtime_engine() -> Engine:
    """ONNX Runtime in float32, which rounds."""
    return Engine(sharing(evaluate), torch.float32, 1e-4, native=torch.float32, lacks=lacks)


def engine() -> Engine:
    """What proves a model: ONNX Runtime where it is installed, else the reference."""
    return (
        replace(runtime_engine(), coarse=True, exact=torch.float64)
        if has_runtime()
        else reference_engine()
    )


def lacks(op: Op) -> str:
    """Why an operation cannot be run at all, or nothing."""
    found = None if op.source is None else lacking(op.source.proto)
    if found is None:
        return ""
    what = f"nothing here runs {type_name(found)} at {op.name}"
    if found is not op.source.proto:
        return f"{what}, in a graph of its own"
    way = "what computes it can be registered beside its rule (graphprune.axis_rule(..., run=))"
    return f"{what}: {way}"


def prepared(
    op: Op,
    operands: Sequence[torch.Tensor | None],
    changed: Mapping[str, Any],
    dtype: torch.dtype,
) -> tuple[NodeProto, dict[str, Any]]:
    """An operation's node and what to feed it; see `evaluate`."""
    node = node_of(op, changed, dtype)
    feeds: dict[str, Any] = {}
    names: list[str] = []
    source: Node = op.source
    inner = captured(source.proto)
    places = max(len(source.proto.input), len(operands) - len(inner))  # some were given since
    for place, tensor in enumerate(operands):
        name = source.arguments.get(place)
        if name is not None:
            value = changed.get(name, op.attrs.get(name))
            kind = source.dtype(place)
            if source.follows(place):
                kind = helper.tensor_dtype_to_np_dtype(_ONNX_TYPES[dtype])
            array: Any = as_operand(name, value, kind)
        else:
            origin = source.operands.get(place, "") if tensor is None else ""
            stored = source.source.array(origin) if origin in source.source.origins else None
            array = stored if tensor is None else as_fed(tensor)
            operand = op.inputs[place] if place < len(op.inputs) else None
            if operand is not None and isinstance(array, np.ndarray) and wider(operand.dtype):
                array = narrowed(array, operand.dtype)
        given = f"operand {place}" if place < places else inner[place - places]
        names.append("" if array is None else given)
        if array is not None:
            feeds[given] = array
    del names[places:]  # what subgraphs use goes by its own name
    if "split" in changed and places == 1 and source.source.opsets[""] >= 13:
        names.append("split")
        feeds["split"] = np.asarray(changed["split"], np.int64)
        _drop(node, "num_outputs")
    del node.input[:]
    node.input.extend(names)
    return node, feeds


def _drop(node: NodeProto, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def run_node(
    node: NodeProto, opsets: Mapping[str, int], feeds: Mapping[str, Any], dtype: torch.dtype
) -> list[Any]:
    """Run a node by itself.

    Raises:
        RuntimeError: It does not run.
    """
    try:
        found = None
        if onnxruntime is not None and dtype == torch.float32:
            try:
                opened, kinds = _opened(node, opsets, feeds)
            except Exception:  # of any type
                found = _by_reference(node, opsets, feeds)
                if found is None:
                    raise
            else:
                given = {name: widened(item) for name, item in feeds.items()}
                found = narrow.results(opened.run(None, given), kinds)
        else:
            found = _referee(node, opsets, feeds)
    except Exception as error:  # neither engine has errors of a common type
        raise RuntimeError(str(error).split("\n")[0]) from error
    return list(found)


def _opened(node: NodeProto, opsets: Mapping[str, int], feeds: Mapping[str, Any]) -> Any:
    """A session of a node: of operands of whatever shape, or of theirs where it must know them."""
    large = sum(getattr(item, "nbytes", 0) for item in feeds.values()) > _LARGE
    made = _session.__wrapped__ if large else _session  # a session keeps its memory
    whole = any(attribute.type == AttributeProto.GRAPH for attribute in node.attribute)
    given = node.SerializeToString(deterministic=True), tuple(opsets.items())
    open_, shaped = (
        tuple((name, _type(item, known)) for name, item in feeds.items()) for known in (whole, True)
    )
    try:
        return made(*given, open_)
    except Exception:  # of any type
        if whole:
            raise
        return made(*given, shaped)


def _by_reference(
    node: NodeProto, opsets: Mapping[str, int], feeds: Mapping[str, Any]
) -> list[Any] | None:
    """What the reference gives for a node that ONNX Runtime has no kernel of; None without one."""
    try:
        return _referee(node, opsets, feeds)
    except Exception:  # its errors have no common type
        return None


def _referee(node: NodeProto, opsets: Mapping[str, int], feeds: Mapping[str, Any]) -> list[Any]:
    inputs = [helper.make_value_info(name, TypeProto()) for name in feeds]
    outputs = [helper.make_value_info(name, TypeProto()) for name in node.output if name]
    graph = helper.make_graph([node], "node", inputs, outputs)
    reference = ReferenceEvaluator(graph, opsets=dict(opsets), new_ops=REPAIRED)
    return list(reference.run(None, dict(feeds)))


def _type(item: Any, whole: bool) -> bytes:
    """The type of an operand, of its shape or of whatever."""
    if isinstance(item, np.ndarray | np.generic):
        shape = np.shape(item) if whole else None
        type_ = helper.make_tensor_type_proto(kind_of(np.asarray(item)), shape)
    else:
        type_ = type_of(item)
    return bytes(type_.SerializeToString(deterministic=True))


def forget() -> None:
    """Free the sessions that were kept for operations met again."""
    _session.cache_clear()


@lru_cache(maxsize=4096)
def _session(node: bytes, opsets: tuple[tuple[str, int], ...], types: tuple[Any, ...]) -> Any:
    """A session of a node, and the types of its results that come out in others."""

    def model(made: Sequence[str | None] = ()) -> bytes:
        given = {name: TypeProto.FromString(kind) for name, kind in types}
        return narrow.model_of(NodeProto.FromString(node), dict(opsets), given, made)

    found = session(model())
    kinds = narrow.kinds(found)
    return (found if kinds.count(None) == len(kinds) else session(model(kinds))), kinds


def session(model: bytes, optimized: bool = False) -> Any:
    """An ONNX Runtime session on the CPU, without its chatter.

    Args:
        model: The protobuf.
        optimized: Whether operations are fused and memory kept, as in deployment; else the graph
            runs as it stands.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    if not optimized:
        # Every node has a session: threads that wait by spinning would take all of the processor.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.enable_cpu_mem_arena = False  # a session runs a node or two: nothing is reused
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
