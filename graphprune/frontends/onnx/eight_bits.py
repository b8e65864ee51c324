"""Weights in eight bits, computed with as floats, where int8 kernels make nothing faster.

A weight q·s is stored as the integers q and, for each index of one dimension, a scale s. `Cast` and
`Mul` make floats of them; runtimes compute both once, when they load the file.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprune.core.errors import GraphPruneError

if TYPE_CHECKING:  # importing graphprune does not import onnx
    from onnx import ModelProto, NodeProto, TensorProto

FEWEST = 64
"""Elements of a tensor from which on it is stored in eight bits: two nodes more take some 50 bytes
where three for each element are saved."""

_LARGEST = 127  # of a signed byte, the same on both sides
_PER_SCALE = 4  # elements that share a scale, at least: it takes as many bytes
_BROADCASTS = 7  # opset from which on Mul broadcasts


def in_eight_bits(original: ModelProto) -> ModelProto:
    """A copy of a model whose floating-point weights of two dimensions or more are int8.

    Raises:
        GraphPruneError: Its opset is too old.
    """
    import onnx

    opset = max(
        (o.version for o in original.opset_import if o.domain in ("", "ai.onnx")), default=1
    )
    if opset < _BROADCASTS:
        raise GraphPruneError(f"opset {opset} is too old: export with opset {_BROADCASTS} or later")
    model = onnx.ModelProto()
    model.CopyFrom(original)
    graph = model.graph
    given = {item.name for item in graph.input}
    nodes: list[NodeProto] = []
    kept: list[TensorProto] = []
    for proto in graph.initializer:
        found = None if proto.name in given else _divided(proto)
        if found is None:
            kept.append(proto)
            continue
        name = proto.name
        whole, scale = f"{name}_int8", f"{name}_scale"
        kept += [
            onnx.numpy_helper.from_array(x, n) for x, n in zip(found, (whole, scale), strict=True)
        ]
        nodes += [
            onnx.helper.make_node("Cast", [whole], [f"{name}_cast"], to=proto.data_type),
            onnx.helper.make_node("Mul", [f"{name}_cast", scale], [name]),
        ]
    if not nodes:
        raise GraphPruneError(f"no floating-point weights of {FEWEST} elements or more to store")
    nodes += graph.node
    for held, new in ((graph.initializer, kept), (graph.node, nodes)):
        content = [type(x).FromString(x.SerializeToString()) for x in new]  # they may lie in `held`
        del held[:]
        held.extend(content)
    return model


def _divided(proto: TensorProto) -> tuple[Any, Any] | None:
    """A weight as integers and scales that broadcast; None where it stays as it is."""
    import onnx

    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    if proto.data_type not in floats or len(proto.dims) < 2 or prod(proto.dims) < FEWEST:
        return None
    weight = onnx.numpy_helper.to_array(proto)
    if not np.isfinite(weight).all():
        return None
    ways = [None, *(d for d, n in enumerate(weight.shape) if 1 < n <= weight.size // _PER_SCALE)]
    return min((_by(weight, dim) for dim in ways), key=lambda found: _error(weight, *found))


def _by(weight: Any, dim: int | None) -> tuple[Any, Any]:
    """Integers and scales with a scale for each index of a dimension, or one in all."""
    others = tuple(d for d in range(weight.ndim) if d != dim)
    largest = np.abs(weight).max(axis=others, keepdims=True).astype(np.float32)
    scale = (np.where(largest > 0, largest, 1) / _LARGEST).astype(weight.dtype)
    safe = np.where(scale > 0, scale, 1).astype(np.float32)  # half precision may have rounded to 0
    return np.clip(np.rint(weight / safe), -_LARGEST, _LARGEST).astype(np.int8), scale


def _error(weight: Any, whole: Any, scale: Any) -> float:
    return float(np.square(whole * scale.astype(np.float32) - weight).sum(dtype=np.float64))
