"""ONNX models for the tests: exported modules, and small graphs written by hand."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper
from torch import nn

from graphprune.frontends.torch.saving import silent

Array = npt.NDArray[Any]


def export(
    module: nn.Module, inputs: tuple[Any, ...], dynamo: bool = False, **more: Any
) -> ModelProto:
    """A module as PyTorch exports it, by tracing or by torch.export."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused kernel has no ONNX form
    with warnings.catch_warnings(), silent(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            return _exported(module.eval(), inputs, dynamo, more)
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def _exported(
    module: nn.Module, inputs: tuple[Any, ...], dynamo: bool, more: dict[str, Any]
) -> ModelProto:
    if dynamo:
        program = torch.onnx.export(module, inputs, dynamo=True, verbose=False, **more)
        return program.model_proto
    file = io.BytesIO()
    torch.onnx.export(module, inputs, file, dynamo=False, **{"opset_version": 17, **more})
    return onnx.load_from_string(file.getvalue())


def graph(
    nodes: list[NodeProto],
    weights: dict[str, Array],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    opset: int = 20,
    kind: int = TensorProto.FLOAT,
) -> ModelProto:
    """A model from nodes; inputs and outputs by name, with their shapes."""
    typed = [
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in given.items()]
        for given in (inputs, outputs)
    ]
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    made = helper.make_graph(nodes, "small", *typed, stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def normal(*shape: int) -> Array:
    """Normal numbers, the same ones for the same shape."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def two_layers(hidden: int = 16, opset: int = 20) -> ModelProto:
    """Two products with a ReLU between them, for any batch."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("Add", ["h", "b1"], ["hb"], name="bias"),
        helper.make_node("Relu", ["hb"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
    ]
    weights = {"w1": normal(8, hidden), "b1": normal(hidden), "w2": normal(hidden, 3)}
    return graph(nodes, weights, {"x": ["batch", 8]}, {"y": ["batch", 3]}, opset)


def run(model: ModelProto | str, **feeds: Array) -> list[Array]:
    """What ONNX Runtime computes."""
    given = model if isinstance(model, str) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the initializers."""
    return {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}


def masked(model: ModelProto, kept: Mapping[str, Sequence[Any]]) -> ModelProto:
    """The model with everything that a plan does not keep set to zero."""
    out = ModelProto()
    out.CopyFrom(model)
    for tensor in out.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        for dim, indices in enumerate(kept.get(tensor.name, ())):
            if indices is not None:
                gone = np.setdiff1d(np.arange(array.shape[dim]), indices)
                array[(slice(None),) * dim + (gone,)] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return out
