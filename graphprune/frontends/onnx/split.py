"""split: two nodes in a row in place of one.

The first keeps the node's attributes and its place, with fewer outputs and no bias; the second
reads each place by itself, and adds the bias: a MatMul behind a MatMul, a Gemm behind a Gemm, a
1 x 1 Conv behind a Conv or a ConvTranspose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnx import ModelProto, NodeProto, helper

from graphprune.core.factors import Pair
from graphprune.core.graph import Op, Value
from graphprune.frontends.onnx.lift import LiftedFile
from graphprune.frontends.onnx.model import APART, captured, used_names
from graphprune.frontends.onnx.names import fresh
from graphprune.frontends.onnx.stored import Lowered, Stored
from graphprune.frontends.onnx.tensors import as_array

_BEHIND = {"MatMul": "MatMul", "Gemm": "Gemm", "Conv": "Conv", "ConvTranspose": "Conv"}
"""Nodes that can become two, each with the kind of the second."""


def unsplit(lifted: LiftedFile, layers: Mapping[Value, Op]) -> dict[Value, str]:
    """Weights that cannot become two, with the reason.

    Args:
        lifted: The lifted file.
        layers: Weights, each with the only operation that reads it.
    """
    bodies = {name for node in lifted.source.nodes for name in captured(node)}
    found = {weight: _refused(lifted, op, weight, bodies) for weight, op in layers.items()}
    return {weight: why for weight, why in found.items() if why}


def _refused(lifted: LiftedFile, op: Op, weight: Value, bodies: set[str]) -> str:
    """Why a node cannot become two, or nothing."""
    if lifted.source.whole is not None:
        return "the file calls functions of its own"
    if op.source is None or op.source.proto.domain not in ("", "ai.onnx"):
        return f"{op.type} is no operator of ONNX itself"
    if op.type not in _BEHIND:
        return f"{op.type} is none of {', '.join(_BEHIND)}"
    if op.inputs.index(weight) != 1:
        return f"it is not the second operand of {op.name}"
    if op.attrs.get("transA"):
        return f"{op.name} reads its first operand transposed"
    if any(name in bodies for name in op.source.proto.input):
        return "the body of another node reads it"
    return ""


def split(lifted: LiftedFile, lowered: Lowered, pairs: Sequence[Pair]) -> Lowered:
    """A smaller model with two nodes in place of some.

    Args:
        lifted: The lifted file.
        lowered: The smaller model.
        pairs: The weights of the two nodes.
    """
    frame = ModelProto()
    frame.CopyFrom(lowered.frame)
    out = Lowered(frame, list(lowered.tensors), dict(lowered.edits), dict(lowered.replaced),
                  list(lowered.folded), dict(lowered.names))  # fmt: skip
    graph = frame.graph
    by_output = {name: node for node in graph.node for name in node.output if name}
    taken = {*by_output, *(t.name for t in out.tensors), *(item.name for item in graph.input)}
    called = {node.name for node in graph.node}
    nodes = {id(by_output[_result(pair.op)]): pair for pair in pairs}
    replaced: list[NodeProto] = []
    for node in graph.node:
        pair = nodes.get(id(node))
        if pair is None:
            replaced.append(node)
            continue
        elem_type = lifted.source.constants[pair.op.source.operands[1]].data_type
        names = [fresh(f"{node.input[1]}_{number}", taken) for number in (0, 1)]
        between = fresh(f"{node.output[0]}_between", taken)
        labels = [fresh(f"{node.name or node.output[0]}_{n}", called) for n in (0, 1)]
        replaced += _two(node, pair, names, labels, between)
        for name, array in zip(names, _arrays(node, pair), strict=True):
            out.tensors.append(Stored(name, elem_type, array.shape, lambda x=array: x))  # type: ignore[misc]
            if frame.ir_version < APART:
                graph.input.append(helper.make_tensor_value_info(name, elem_type, array.shape))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in replaced]
    del graph.node[:]
    graph.node.extend(copies)
    _sweep(out)
    return out


def _result(op: Op) -> str:
    return next(str(name) for name in op.source.proto.output if name)


def _arrays(node: NodeProto, pair: Pair) -> Iterator[Any]:
    """The weights of the two nodes as each of them stores its own."""
    first, second = as_array(pair.first), as_array(pair.second)
    yield first
    if _BEHIND[node.op_type] == "Conv":
        yield second.reshape(*second.shape, *[1] * (first.ndim - 2))
    else:
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        yield second if transposed else second.T.copy()


def _two(
    node: NodeProto, pair: Pair, names: Sequence[str], labels: Sequence[str], between: str
) -> tuple[NodeProto, NodeProto]:
    """The two nodes that stand for one."""
    first = NodeProto()
    first.CopyFrom(node)
    del first.input[1:]
    first.input.append(names[0])
    first.output[0] = between
    rest = list(node.input[2:])
    options: dict[str, Any] = {}
    kind = _BEHIND[node.op_type]
    if kind == "Conv":
        options = {"kernel_shape": [1] * (pair.first.dim() - 2), "group": pair.groups}
    elif kind == "Gemm":
        known = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        options = {name: known[name] for name in ("transB", "beta") if name in known}
    first.name = labels[0]
    second = helper.make_node(
        kind, [between, names[1], *rest], list(node.output), labels[1], **options
    )
    second.metadata_props.extend(node.metadata_props)
    return first, second


def _sweep(out: Lowered) -> None:
    """Take out the weights that stood in one node, where nothing else uses them."""
    graph = out.frame.graph
    used = used_names(graph)
    for node in [n for n in graph.node if n.op_type == "Constant" and not used & {*n.output}]:
        graph.node.remove(node)
    gone = {tensor.name for tensor in out.tensors} - used
    out.tensors = [tensor for tensor in out.tensors if tensor.name not in gone]
    for item in [item for item in graph.input if item.name in gone]:
        graph.input.remove(item)


__all__ = ["split", "unsplit"]
