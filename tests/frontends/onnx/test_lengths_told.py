"""Lengths that a file returns, or hands to graphs inside its nodes, stay what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

import graphprune
from graphprune.frontends.onnx.fixed import settled
from graphprune.frontends.onnx.model import read_model
from tests.frontends.onnx.exports import graph, masked, normal, run, shapes


def node(kind: str, inputs: list[str], *outputs: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, list(outputs), **attrs)


def layers(
    more: list[onnx.NodeProto], returned: dict[str, list[Any]], **weights: Any
) -> ModelProto:
    """Two products, `b` of 32 channels between them, and what else is made of them."""
    nodes = [
        node("MatMul", ["x", "w1"], "a"),
        node("Relu", ["a"], "b"),
        node("MatMul", ["b", "w2"], "c"),
        *more,
    ]
    held = {"w1": normal(16, 32), "w2": normal(32, 4), "one": np.array(1), **weights}
    return graph(nodes, held, {"x": ["n", 16]}, returned, opset=17)


def same(model: ModelProto, *others: str) -> ModelProto:
    """The smaller model gives what the masked one gives, at two batch sizes."""
    integers = {item.name: item for item in model.graph.output if item.name in others}
    for item in integers.values():
        item.type.tensor_type.elem_type = TensorProto.INT64
    onnx.checker.check_model(model, full_check=True)
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    assert shapes(small)["w1"] == (16, 16)
    for size in (3, 5):
        x = normal(size, 16)
        for a, b in zip(run(masked(model, plan.kept), x=x), run(small, x=x), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    return small


def test_a_shape_that_is_returned() -> None:
    more = [node("Shape", ["b"], "s"), node("Identity", ["c"], "y")]
    small = same(layers(more, {"y": ["n", 4], "s": [2]}), "s")
    assert [item.name for item in small.graph.output] == ["y", "s"]


def test_a_shape_that_is_returned_and_read() -> None:
    more = [
        node("Shape", ["b"], "s"),
        node("Gather", ["s", "one"], "width"),
        node("Cast", ["width"], "f", to=TensorProto.FLOAT),
        node("Div", ["c", "f"], "y"),
    ]
    same(layers(more, {"y": ["n", 4], "s": [2], "width": []}), "s", "width")


def test_numbers_of_a_shape_that_is_made_of_a_shape() -> None:
    more = [node("Shape", ["b"], "s"), node("ConstantOfShape", ["s"], "z")]
    same(layers([*more, node("Identity", ["c"], "y")], {"y": ["n", 4], "z": ["n", 32]}))


@pytest.mark.parametrize("kind", ["Gather", "Size"])
def test_graphs_inside_read_the_lengths_that_were(kind: str) -> None:
    def branch(name: str, does: str) -> onnx.GraphProto:
        inner = [
            node("Cast", ["length"], "f", to=TensorProto.FLOAT),
            node(does, ["c", "f"], f"{name}_out"),
        ]
        typed = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph(inner, name, [], [typed])

    both = {"then_branch": branch("yes", "Mul"), "else_branch": branch("no", "Div")}
    more = [
        node("Shape", ["b"], "s"),
        node("Gather", ["s", "one"], "length") if kind == "Gather" else node(kind, ["b"], "length"),
        node("ReduceSum", ["x"], "total", keepdims=0),
        node("Greater", ["total", "zero"], "positive"),
        node("If", ["positive"], "y", **both),
    ]
    same(layers(more, {"y": ["n", 4]}, zero=np.float32(0)))


def test_a_loop_runs_as_often_as_before() -> None:
    body = helper.make_graph(
        [node("Add", ["state", "c"], "next"), node("Identity", ["going"], "goes")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    more = [
        node("Shape", ["b"], "s"),
        node("Gather", ["s", "one"], "width"),
        node("Loop", ["width", "", "c"], "y", body=body),
    ]
    same(layers(more, {"y": ["n", 4]}))


def test_what_no_runtime_knows_inside_a_branch() -> None:
    def branch(name: str, **where: str) -> onnx.GraphProto:
        typed = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, None)
        return helper.make_graph([node("Elu", ["c"], f"{name}_out", **where)], name, [], [typed])

    both = {"then_branch": branch("yes", domain="acme"), "else_branch": branch("no")}
    model = layers([node("If", ["yes"], "y", **both)], {"y": ["n", 4]}, yes=np.array(True))
    model.opset_import.append(helper.make_opsetid("acme", 1))
    plan = graphprune.plan(model, 0.5, compensate=False)
    assert shapes(plan.apply())["w1"] == (16, 16)
    assert plan.report is not None
    assert any("acme::Elu" in warning for warning in plan.report.warnings)


@pytest.mark.parametrize("last", [False, True])
def test_pictures_of_one_colour_in_open_sizes(last: bool) -> None:
    nodes = [node("Transpose", ["x"], "t", perm=[0, 3, 1, 2] if last else [0, 1, 2, 3]),
             node("Conv", ["t", "w1"], "a"), node("Relu", ["a"], "b"),
             node("Conv", ["b", "w2"], "y")]  # fmt: skip
    weights = {"w1": normal(16, 1, 3, 3), "w2": normal(4, 16, 1, 1)}
    sizes = {"x": ["n", "p", "q", "r"]}, {"y": ["n", 4, "h", "w"]}
    model = graph(nodes, weights, *sizes, opset=17)
    assert settled(read_model(model))["x", 3 if last else 1] == 1
    assert shapes(graphprune.shrink(model, 0.5, compensate=False))["w1"] == (8, 1, 3, 3)


def test_the_spectrum_of_real_numbers_has_one_side() -> None:
    """onnx's shape inference takes both sides where the attribute is left at its default."""
    nodes = [
        node("STFT", ["x", "step", "window"], "f"),
        node("ReduceSumSquare", ["f", "last"], "p", keepdims=0),
        node("MatMul", ["p", "w1"], "a"),
        node("Relu", ["a"], "b"),
        node("MatMul", ["b", "w2"], "y"),
    ]
    weights = {"step": np.array(16), "window": np.hanning(32).astype(np.float32),
               "last": np.array([-1]), "w1": normal(17, 24), "w2": normal(24, 4)}  # fmt: skip
    model = graph(nodes, weights, {"x": ["n", "t"]}, {"y": ["n", "f", 4]}, opset=18)
    assert shapes(graphprune.shrink(model, 0.5, compensate=False))["w1"][1] < 24
