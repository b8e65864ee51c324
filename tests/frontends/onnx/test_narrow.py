"""Numbers of types that NumPy lacks: eight bits of floating point, integers of less than eight."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

import graphprune
from tests.frontends.onnx.exports import Array, graph, normal, run

TYPES = onnx.TensorProto.DataType.keys()


def node(kind: str, inputs: list[str], *outputs: str, **attrs: Any) -> NodeProto:
    return helper.make_node(kind, inputs, outputs, name=f"{kind} {outputs[0]}", **attrs)


def layers(between: list[NodeProto], weights: dict[str, Array], opset: int = 21) -> ModelProto:
    """A layer, what is in question, and another layer."""
    nodes = [
        node("MatMul", ["x", "w1"], "a"), node("Relu", ["a"], "h"), *between,
        node("Relu", ["m"], "b"), node("MatMul", ["b", "w2"], "y"),
    ]  # fmt: skip
    w1 = np.einsum("ij,jo->io", normal(8, 4), normal(4, 32))
    weights = {"w1": w1, "w2": normal(32, 3), **weights}
    model = graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 3]}, opset=opset)
    model.ir_version = 13 if opset > 24 else 10
    return model


def held(kind: str, *shape: int) -> Array:
    """Numbers of such a type."""
    return (normal(*shape) * (0.7 if "int2" in kind else 3)).astype(getattr(ml_dtypes, kind))


def errors(model: ModelProto, ratio: float = 0.4) -> tuple[float, float]:
    """What is lost, compensated and not."""
    data, unseen, found = normal(128, 8), normal(65, 8), []
    for how in ({"data": data, "effort": "fast"}, {"compensate": False}):
        plan = graphprune.plan(model, ratio, limits={"w2*": 32}, **how)
        small = plan.apply()
        assert plan.report is not None and not plan.report.unknown and not plan.report.left
        onnx.checker.check_model(small, full_check=True)
        (a,), (b,) = run(model, x=unseen), run(small, x=unseen)
        found.append(float(np.linalg.norm(a - b) / np.linalg.norm(a - a.mean(0))))
    return found[0], found[1]


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "int4", "uint4", "int2", "uint2"])
def test_weights_are_cut_and_compensated(kind: str) -> None:
    if kind.endswith("2") and "int" in kind and kind.upper() not in TYPES:
        pytest.skip("this onnx does not know the type")
    between = [
        node("DequantizeLinear", ["q", "s"], "w", axis=1),
        node("MatMul", ["h", "w"], "m"),
    ]
    weights = {"q": held(kind, 32, 32), "s": abs(normal(32)) + 0.2}
    opset = 25 if kind in ("int2", "uint2") else 21
    with_it, without = errors(layers(between, weights, opset))
    assert with_it < 0.8 * without


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "int4"])
def test_a_cast_makes_them_numbers(kind: str) -> None:
    to = TensorProto.FLOAT
    between = [node("Cast", ["q"], "w", to=to), node("MatMul", ["h", "w"], "m")]
    with_it, without = errors(layers(between, {"q": held(kind, 32, 32)}))
    assert with_it < 0.8 * without


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E5M2", "UINT4", "UINT8"])
def test_what_layers_read_is_rounded_on_the_way(kind: str) -> None:
    between = [
        node("QuantizeLinear", ["h", "s"], "q", output_dtype=getattr(TensorProto, kind)),
        node("DequantizeLinear", ["q", "s"], "d"),
        node("MatMul", ["d", "w"], "m"),
    ]
    scale = np.float32(0.05 if kind.startswith("FLOAT") else 0.4)
    with_it, without = errors(layers(between, {"s": np.asarray(scale), "w": normal(32, 32)}))
    assert with_it < 0.6 * without
