"""narrow: a node whose numbers are of types that NumPy lacks, in types that runtimes take from it.

`Cast` nodes stand before and behind it. Eight bits of floating point go in and come out as float32,
integers of less than eight bits as those of eight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TypeProto, helper

from graphprune.frontends.onnx.tensors import narrowed, wider

_OF_OLD, _OF_TWO_BITS = 10, 13  # versions of the format
_KINDS = {
    "float8e4m3fn": "float8_e4m3fn",
    "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2",
    "float8e5m2fnuz": "float8_e5m2fnuz",
    **{name: name for name in ("int4", "uint4", "int2", "uint2")},
}
"""How a session calls such types, and how NumPy does."""


def widened(item: Any) -> Any:
    """An array in a type that runtimes take; anything else as it is."""
    kind = wider(item.dtype.name) if isinstance(item, np.ndarray) else None
    return item if kind is None else item.astype(kind)


def results(found: Sequence[Any], kinds: Sequence[str | None]) -> list[Any]:
    """What a session gives, in the types that the node gives."""
    return [
        item if kind is None else narrowed(item, kind)
        for item, kind in zip(found, kinds, strict=True)
    ]


def kinds(session: Any) -> list[str | None]:
    """For each result of a session its type, where it is such a one."""
    types = (item.type.removeprefix("tensor(").removesuffix(")") for item in session.get_outputs())
    return [_KINDS.get(kind) for kind in types]


def model_of(
    node: NodeProto,
    opsets: Mapping[str, int],
    types: Mapping[str, TypeProto],
    made: Sequence[str | None] = (),
) -> bytes:
    """A node as a model.

    Args:
        node: The node; modified.
        opsets: Version of each domain's operators.
        types: Types of its operands, by name.
        made: Types of its results that come out in others.
    """
    inputs, before, behind, small = [], list[NodeProto](), list[NodeProto](), False
    for name, type_ in types.items():
        elem_type = type_.tensor_type.elem_type
        kind = np.dtype(helper.tensor_dtype_to_np_dtype(elem_type)).name if elem_type else ""
        small |= kind.endswith("int2")
        if wider(kind) is not None:
            taken = f"{name} taken"
            before.append(helper.make_node("Cast", [name], [taken], to=elem_type))
            node.input[:] = [taken if given == name else given for given in node.input]
            type_.tensor_type.elem_type = _elem_type(wider(kind))
        inputs.append(helper.make_value_info(name, type_))
    outputs = [name for name in node.output if name]
    for name, kind in zip(outputs, made, strict=False):
        if kind is not None:
            small |= kind.endswith("int2")
            node.output[:] = [f"{name} made" if given == name else given for given in node.output]
            to = _elem_type(wider(kind))
            behind.append(helper.make_node("Cast", [f"{name} made"], [name], to=to))
    results_ = [helper.make_value_info(name, TypeProto()) for name in outputs]
    graph = helper.make_graph([*before, node, *behind], "node", inputs, results_)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    version = _OF_TWO_BITS if small else _OF_OLD
    model = helper.make_model(graph, opset_imports=imports, ir_version=version)
    return bytes(model.SerializeToString())


def _elem_type(kind: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
