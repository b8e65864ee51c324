"""Small ONNX models for the rule checker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, TypeProto, helper

from graphprune.testing.onnx import REFERENCE, RUNTIME, check_model

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Case:
    """One node; integer operands are constants of the model, the others its inputs.

    Attributes:
        name: What is special about it.
        op: Operator.
        operands: One shape (a tuple: normal numbers) or array an operand; None where left out.
        attrs: Attributes.
        outputs: Names of the results; empty for those left out.
        opset: Version of the operators.
        domain: Domain of the operator.
        runtime: Whether ONNX Runtime computes it; else the reference implementation.
    """

    name: str
    op: str
    operands: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    opset: int = 20
    domain: str = ""
    runtime: bool = False

    def model(self) -> ModelProto:
        """The node as a model."""
        rng = np.random.default_rng(0)
        inputs, constants, names = [], [], []
        for i, operand in enumerate(self.operands):
            names.append("" if operand is None else f"x{i}")
            if isinstance(operand, tuple):
                operand = rng.standard_normal(operand).astype(np.float32)
                kind = helper.np_dtype_to_tensor_dtype(operand.dtype)
                inputs.append(helper.make_tensor_value_info(f"x{i}", kind, operand.shape))
            elif operand is not None:
                constants.append(onnx.numpy_helper.from_array(np.asarray(operand), f"x{i}"))
        node = helper.make_node(
            self.op, names, self.outputs, name="node", domain=self.domain, **self.attrs
        )
        results = [helper.make_value_info(name, TypeProto()) for name in self.outputs if name]
        graph = helper.make_graph([node], "case", inputs, [], constants)
        inferred = onnx.shape_inference.infer_shapes(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        )
        known = {item.name: item for item in inferred.graph.value_info}
        for item in results:
            found = known.get(item.name)
            if found is None or not found.type.tensor_type.HasField("shape"):
                # What has no shape inference is of its operand's shape.
                found = helper.make_value_info(item.name, inputs[0].type)
            graph.output.append(found)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9
        )


def check(case: Case) -> list[str]:
    """Run the rule checker on a case."""
    return check_model(case.model(), RUNTIME if case.runtime else REFERENCE)


def ints(*values: int) -> Array:
    """A constant of integers."""
    return np.asarray(values, np.int64)


def single(value: float) -> Array:
    """A constant of one number."""
    return np.asarray(value, np.float32)
