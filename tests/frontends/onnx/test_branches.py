"""Branches: those that are always taken stand in the open, the others stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import graphprune
from graphprune.core.errors import BudgetError
from tests.frontends.onnx.exports import graph, normal, run, shapes


def node(kind: str, inputs: list[str], *outputs: str, **attrs: Any) -> NodeProto:
    return helper.make_node(kind, inputs, outputs, name=f"{kind} {outputs[0]}", **attrs)


def branch(nodes: list[NodeProto], *results: str, **weights: Any) -> GraphProto:
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
    held = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    return helper.make_graph(nodes, "branch", [], outputs, held)


def switched(how: list[NodeProto], condition: str, **weights: Any) -> ModelProto:
    """A layer, an `If` with a layer in one branch and the value itself in the other, a layer."""
    inner = [node("MatMul", ["h", "w"], "a"), node("Relu", ["a"], "b")]
    same = node("Identity", ["h"], "d")
    nodes = [
        node("MatMul", ["x", "w1"], "h0"), node("Relu", ["h0"], "h"), *how,
        node(
            "If", [condition], "q", "same",
            then_branch=branch([*inner, same], "b", "d", w=normal(16, 16)),
            else_branch=branch([same, node("Relu", ["h"], "a")], "a", "d"),
        ),
        node("MatMul", ["q", "w2"], "m"), node("MatMul", ["same", "w3"], "s"),
        node("Add", ["m", "s"], "y"),
    ]  # fmt: skip
    weights |= {"w1": normal(8, 16), "w2": normal(16, 3), "w3": normal(16, 3)}
    return graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 3]}, opset=17)


@pytest.mark.parametrize("by_length", [False, True])
def test_a_branch_that_is_always_taken_shrinks(by_length: bool) -> None:
    how = [
        node("Shape", ["h"], "s0"), node("Gather", ["s0", "one"], "width", axis=0),
        node("Equal", ["width", "sixteen"], "c"),
    ]  # fmt: skip
    numbers = {"one": np.asarray(1), "sixteen": np.asarray(16)}
    model = switched(how, "c", **numbers) if by_length else switched([], "c", c=np.asarray(True))
    plan = graphprune.plan(model, 0.5, data=normal(64, 8), effort="fast")
    small = plan.apply()
    assert plan.report is not None and not plan.report.unknown
    onnx.checker.check_model(small, full_check=True)
    assert "If" not in {n.op_type for n in small.graph.node}
    kept = shapes(small)
    assert kept["w2"][0] < 16 or kept["w1"][1] < 16
    whole = graphprune.shrink(model, 0.0)
    for samples in (1, 5):
        x = normal(samples, 8)
        np.testing.assert_allclose(run(whole, x=x)[0], run(model, x=x)[0], rtol=1e-4, atol=1e-4)
        assert run(small, x=x)[0].shape == (samples, 3)


def test_a_branch_that_hangs_on_the_input_stays() -> None:
    how = [
        node("Shape", ["x"], "s0"), node("Gather", ["s0", "zero"], "samples", axis=0),
        node("Less", ["samples", "many"], "c"),
    ]  # fmt: skip
    model = switched(how, "c", zero=np.asarray(0), many=np.asarray(1000))
    with pytest.raises(BudgetError, match=r"the graph inside reads it by name.*If"):
        graphprune.shrink(model, 0.5, compensate=False)
