"""A model in bfloat16 as one in float32, for machines whose runtime lacks bfloat16."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

from graphprune.frontends.onnx.model import subgraphs
from graphprune.frontends.onnx.tensors import Array

_FROM, _TO = TensorProto.BFLOAT16, TensorProto.FLOAT


def in_single(model: ModelProto, feeds: Mapping[str, Array]) -> tuple[ModelProto, dict[str, Array]]:
    """The model and its inputs with every bfloat16 widened to float32; as they are without any.

    Args:
        model: A model with its weights inside; not modified.
        feeds: Inputs by name.
    """
    used = {tensor.data_type for tensor in model.graph.initializer}
    used |= {item.type.tensor_type.elem_type for item in model.graph.input}
    if _FROM not in used:
        return model, dict(feeds)
    out = ModelProto()
    out.CopyFrom(model)
    _widen(out.graph)
    return out, {name: _widened(array) for name, array in feeds.items()}


def _widened(array: Array) -> Array:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return array.astype(np.float32) if kind == _FROM else array


def _widen(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for item in (*graph.input, *graph.output, *graph.value_info):
        if item.type.tensor_type.elem_type == _FROM:
            item.type.tensor_type.elem_type = _TO
    for node in graph.node:
        for attribute in node.attribute:
            _widen_attribute(attribute)
        for inner in subgraphs(node):
            _widen(inner)


def _widen_attribute(attribute: Any) -> None:
    if attribute.name in ("to", "dtype") and attribute.i == _FROM:
        attribute.i = _TO
    if attribute.type == AttributeProto.TENSOR:
        _widen_tensor(attribute.t)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == _FROM:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
