"""ONNX Runtime as a backend, of modules (exported) and of ONNX models."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from onnx import NodeProto, TypeProto, helper, numpy_helper
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.graph import Op
from graphprune.core.program import Inputs
from graphprune.costs.latency.backend import Operands
from graphprune.costs.latency.timing import Call
from graphprune.engine.state import preserved
from graphprune.frontends.backends import Eager, key_of
from graphprune.frontends.onnx.execute import has_runtime, prepared, session
from graphprune.frontends.onnx.tensors import Array, as_array
from graphprune.frontends.torch.execute import rewritten
from graphprune.frontends.torch.saving import save_model

_OPSET = 18
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_PRODUCTS = ("matmul", "mm", "bmm")


class _Runtime:
    name = "onnxruntime"
    fuses: bool = True

    def __init__(self) -> None:
        if not has_runtime():
            raise GraphPruneError(
                "backend='onnxruntime': ONNX Runtime is not installed: "
                "pip install 'graphprune[ort]'"
            )


class ModuleRuntime(_Runtime):
    """Modules, exported by torch.onnx; products are measured as single nodes."""

    def __init__(self) -> None:
        super().__init__()
        self._made: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
        self._eager = Eager()

    def operation(
        self, op: Op, changed: Mapping[str, Any], operands: Operands
    ) -> tuple[str, Callable[[], Call]]:
        """A convolution or a product as a node; whatever else in eager mode."""
        target, args, kwargs = rewritten(op, changed, operands)
        held = [v is not None and v.is_weight for v in op.inputs]
        node = _node(op.type.partition(".")[2], args, held)
        if node is None:
            return self._eager.operation(op, changed, operands)
        return f"ort {key_of(target, args, kwargs)}", lambda: _alone(*node, {"": _OPSET})

    @contextmanager
    def running(self, model: Any, inputs: Inputs) -> Iterator[Call]:
        """The module as an exported model."""
        if model not in self._made:
            self._made[model] = _exported(model, inputs)
        found = self._made[model]
        leaves = [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]
        names = [item.name for item in found.get_inputs()]
        if len(names) != len(leaves):
            raise GraphPruneError(
                f"backend='onnxruntime': the exported model takes {names}, which are not the "
                f"{len(leaves)} tensors of the example inputs: use backend='eager'"
            )
        yield partial(found.run, None, dict(zip(names, map(as_array, leaves), strict=True)))


class FileRuntime(_Runtime):
    """ONNX models; every operation is a node."""

    def operation(
        self, op: Op, changed: Mapping[str, Any], operands: Operands
    ) -> tuple[str, Callable[[], Call]]:
        """A node by itself, its weights as initializers."""
        node, feeds = prepared(op, operands, changed, torch.float32)
        weights = {
            f"operand {place}" for place, v in enumerate(op.inputs) if v is not None and v.is_weight
        }
        held = {name for name in feeds if name in weights}
        opsets: Mapping[str, int] = op.source.source.opsets
        shapes = {name: (str(x.dtype), x.shape) for name, x in feeds.items()}
        key = f"ort {opsets.get('', 0)} {node.SerializeToString(deterministic=True).hex()} {shapes}"
        return key, lambda: _alone(node, feeds, held, opsets)

    @contextmanager
    def running(self, model: Any, inputs: Inputs) -> Iterator[Call]:
        """A ModelProto."""
        found = _session(model.SerializeToString())
        yield partial(found.run, None, {name: as_array(x) for name, x in inputs[1].items()})


def _session(model: bytes) -> Any:
    try:
        return session(model, optimized=True)
    except Exception as error:  # ONNX Runtime has no errors of a common type
        raise GraphPruneError(
            f"backend='onnxruntime': ONNX Runtime rejects the model ({first_line(error)})"
        ) from error


def _exported(model: nn.Module, inputs: Inputs) -> Any:
    with tempfile.TemporaryDirectory() as folder, preserved(model):
        path = Path(folder) / "model.onnx"
        save_model(model.eval(), inputs, path)
        return _session(path.read_bytes())


def _alone(
    node: NodeProto, feeds: Mapping[str, Array], held: set[str], opsets: Mapping[str, int]
) -> Call:
    """A node by itself, the operands in `held` being initializers.

    Raises:
        RuntimeError: It does not run.
    """
    given = {name: array for name, array in feeds.items() if name not in held}
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for name, x in given.items()
    ]
    outputs = [helper.make_value_info(name, TypeProto()) for name in node.output if name]
    weights = [numpy_helper.from_array(feeds[name], name) for name in feeds if name in held]
    graph = helper.make_graph([node], "node", inputs, outputs, weights)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    try:
        found = session(model.SerializeToString(), optimized=True)
        call: Call = partial(found.run, None, given)
        call()
    except Exception as error:  # ONNX Runtime has no errors of a common type
        raise RuntimeError(first_line(error)) from error
    return call


def _node(
    name: str, args: tuple[Any, ...], held: list[bool]
) -> tuple[NodeProto, dict[str, Array], set[str]] | None:
    """An operation of PyTorch as a node with its operands, or None where it is no product."""
    if name in _CONVOLUTIONS and not isinstance(args[4], str):
        operands = list(args[:3])
        node = _convolution(args)
    elif name == "linear":
        operands = [args[0], args[1].t()]
        node = helper.make_node("MatMul", ["0", "1"], ["out"])
    elif name in _PRODUCTS:
        operands = list(args[:2])
        node = helper.make_node("MatMul", ["0", "1"], ["out"])
    elif name == "addmm":
        operands, held = list(args[1:3]), held[1:]
        node = helper.make_node("MatMul", ["0", "1"], ["out"])
    else:
        return None
    feeds = {str(i): np.ascontiguousarray(as_array(x)) for i, x in enumerate(operands)
             if x is not None}  # fmt: skip
    return node, feeds, {name for name in feeds if held[int(name)]}


def _convolution(args: tuple[Any, ...]) -> NodeProto:
    _, weight, bias, stride, padding, dilation, groups = args[:7]
    rank = weight.dim() - 2
    spread = [list(x) * (rank if len(x) == 1 else 1) for x in (stride, padding, dilation)]
    return helper.make_node(
        "Conv", ["0", "1"] if bias is None else ["0", "1", "2"], ["out"],
        strides=spread[0], pads=spread[1] * 2, dilations=spread[2], group=groups,
    )  # fmt: skip
