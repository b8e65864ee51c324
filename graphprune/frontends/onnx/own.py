"""own: operations of domains that neither ONNX nor ONNX Runtime knows.

No schema tells the types of their results: the file does (`value_info`), or a run of what is
registered beside the rule (`run=` of `graphprune.axis_rule`), which evaluates them as well.
Without it, numbers of the right shape stand in for the results wherever a model is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import NodeProto, TypeProto, helper

from graphprune.core.errors import EvaluationError, named_line
from graphprune.engine.granted import stand_in
from graphprune.frontends.onnx.model import subgraphs
from graphprune.frontends.onnx.tensors import Array, as_array, as_torch, dtype_name
from graphprune.rules.registry import evaluation, is_known

_STANDARD = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training")
_RUNTIMES = "com.microsoft"


def type_name(node: NodeProto) -> str:
    """The name by which a node's operation is known to rules: `Conv`, `my.ops::Scale`."""
    return f"{node.domain}::{node.op_type}" if node.domain else str(node.op_type)


def is_own(node: NodeProto) -> bool:
    """Whether a node is of a domain that neither ONNX nor ONNX Runtime knows."""
    return node.domain not in _STANDARD and not node.domain.startswith(_RUNTIMES)


def evaluator(node: NodeProto) -> Callable[..., Any] | None:
    """What evaluates a node in place of a runtime, if its rule brings it."""
    return evaluation(type_name(node))


def lacking(node: NodeProto) -> NodeProto | None:
    """What keeps a node from being run here: itself, or a node of a graph inside it."""
    if is_own(node):
        return node if evaluator(node) is None else None
    inner = (n for body in subgraphs(node) for n in body.node)
    return next((found for n in inner if (found := foreign(n)) is not None), None)


def foreign(node: NodeProto) -> NodeProto | None:
    """A node of a domain that no runtime knows: this one, or one of a graph inside it."""
    return node if is_own(node) else lacking(node)


# --- types --------------------------------------------------------------------------------------


class Stated:
    """What a file states of the types of its values, at concrete sizes of its inputs.

    Args:
        graph: The graph of the file.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        items = (*graph.input, *graph.value_info, *graph.output)
        self._types = {item.name: item.type for item in items}
        self._lengths: dict[str, int] = {}

    def learn(self, name: str, shape: Sequence[int]) -> None:
        """Take the shape of a value for what its symbolic dimensions are."""
        dims = self._dims(name)
        if dims is not None and len(dims) == len(shape):
            for dim, size in zip(dims, shape, strict=True):
                if dim.dim_param:
                    self._lengths.setdefault(dim.dim_param, size)

    def type_of(self, name: str) -> TypeProto | None:
        """The type of a value; None where the file does not state it, or a length is open."""
        dims = self._dims(name)
        if dims is None:
            return None
        shape = [
            dim.dim_value if dim.dim_value > 0 else self._lengths.get(dim.dim_param) for dim in dims
        ]
        if None in shape:
            return None
        elem_type = self._types[name].tensor_type.elem_type
        return helper.make_tensor_type_proto(elem_type, shape) if elem_type else None

    def _dims(self, name: str) -> Any:
        type_ = self._types.get(name)
        if type_ is None or not type_.tensor_type.HasField("shape"):
            return None
        return type_.tensor_type.shape.dim


def types_by_run(
    node: NodeProto, types: Mapping[str, TypeProto], known: Callable[[str], Array | None]
) -> dict[str, TypeProto]:
    """Types of a node's results, from a run of its evaluation.

    Args:
        node: The node.
        types: Types of its operands, by name.
        known: Gives the elements of operands that are constants.

    Raises:
        EvaluationError: It does not run; the message names the node.
    """
    operands: list[torch.Tensor | None] = []
    for name in node.input:
        array = known(name) if name else None
        if name and array is None:
            type_ = types[name].tensor_type
            shape = [dim.dim_value for dim in type_.shape.dim]
            operands.append(stand_in(name, shape, dtype_name(type_.elem_type)))
        else:
            operands.append(None if array is None else as_torch(array))
    return {
        name: helper.make_tensor_type_proto(
            helper.np_dtype_to_tensor_dtype(as_array(found).dtype), found.shape
        )
        for name, found in zip(node.output, results(node, operands), strict=False)
        if name
    }


def untyped(node: NodeProto, types: Mapping[str, TypeProto]) -> str:
    """Why an operation with a rule cannot be followed for want of types, and the ways out.

    Nothing where it has no rule, or where it is an operand that is of unknown shape.
    """
    wanted = [name for name in node.output if name and name not in types]
    unknown = any(name and name not in types for name in node.input)
    if not wanted or unknown or not is_own(node) or not is_known(type_name(node)):
        return ""
    return (
        f"{node.op_type} {node.name or wanted[0]} of the domain {node.domain} has a rule, but "
        f"nothing tells the type of its result {wanted[0]}: state it in the file "
        f"(graph.value_info), or register what computes it: "
        f"graphprune.axis_rule({type_name(node)!r}, run=function of tensors and attributes)"
    )


# --- runs ---------------------------------------------------------------------------------------


def results(
    node: NodeProto,
    operands: Sequence[torch.Tensor | None],
    changed: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> list[torch.Tensor]:
    """Run what evaluates a node.

    Args:
        node: The node; its rule brings an evaluation.
        operands: Its operands, None where one is left out.
        changed: Attributes with new values.
        dtype: Floating-point type of the results; None: as they come.

    Raises:
        EvaluationError: It does not run, or does not give tensors; the message names the node.
    """
    run = evaluator(node)
    assert run is not None
    where = f"run= of {type_name(node)} at {node.name or node.output[0]}"
    try:
        found = run(*operands, **{**_attributes(node), **(changed or {})})
    except Exception as error:  # the caller's code: any error at all
        shapes = ", ".join("-" if x is None else str(list(x.shape)) for x in operands)
        raise EvaluationError(
            f"{where} fails on the shapes {shapes}: {named_line(error)}"
        ) from error
    given = list(found) if isinstance(found, list | tuple) else [found]
    made = [torch.from_numpy(np.asarray(x)) if isinstance(x, np.ndarray) else x for x in given]
    if not all(isinstance(x, torch.Tensor) for x in made) or len(made) < len(node.output):
        kinds = ", ".join(type(x).__name__ for x in given)
        raise EvaluationError(f"{where} must give {len(node.output)} tensors, not {kinds}")
    return [
        x.detach() if dtype is None or not x.is_floating_point() else x.detach().to(dtype)
        for x in made[: len(node.output)]
    ]


def _attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes: text decoded, tensors as those of PyTorch, graphs left out."""
    out: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            out[attribute.name] = as_torch(onnx.numpy_helper.to_array(value).copy())
        elif isinstance(value, bytes):
            out[attribute.name] = value.decode(errors="replace")
        elif isinstance(value, int | float | list):
            out[attribute.name] = value
    return out
