"""Sizes at which a file runs are found, and what follows from free ones stays free."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, shape_inference

import graphprune
from tests.frontends.onnx.exports import graph, normal, run


def _heads(steps: int, batch: str = "n", fixed: int = -1) -> ModelProto:
    """Heads and samples side by side, as in `nn.MultiheadAttention`; steps are written down."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Transpose", ["h"], ["t"], perm=[1, 0, 2]),
        node("Reshape", ["t", "apart"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "first"], ["n"]),
        node("Concat", ["steps", "n", "rest"], ["joint"], axis=0),
        node("Reshape", ["r", "joint"], ["b"]),
        node("MatMul", ["b", "w2"], ["y"]),
    ]
    weights = {
        "w1": normal(6, 32), "w2": normal(32, 4), "apart": np.array([steps, fixed, 8]),
        "first": np.array([0]), "steps": np.array([steps]), "rest": np.array([-1]),
    }  # fmt: skip
    model = graph(nodes, weights, {"x": [batch, "t", 6]}, {"y": ["u", "n", 4]}, opset=17)
    return shape_inference.infer_shapes(model)


@pytest.mark.parametrize("steps", [10, 37])
@pytest.mark.parametrize("fixed", [-1, 4, 8])
def test_steps_and_samples_that_a_file_writes_down(steps: int, fixed: int) -> None:
    model = _heads(steps, fixed=fixed)
    x = normal(max(fixed, 4) // 4, steps, 6)
    small = graphprune.shrink(model, 0.5, compensate=False)
    assert run(small, x=x)[0].shape == run(model, x=x)[0].shape
    np.testing.assert_array_equal(run(graphprune.compact(model), x=x)[0], run(model, x=x)[0])


@pytest.mark.parametrize("given", [True, False])
def test_any_number_of_samples_stays_possible(given: bool) -> None:
    model = _heads(64)
    how = {"example_inputs": normal(2, 64, 6)} if given else {}
    small = graphprune.shrink(model, 0.5, compensate=False, **how)
    for samples in (1, 2, 5):  # shapes that the file states must not hold for one alone
        assert run(small, x=normal(samples, 64, 6))[0].shape == (64, samples, 4)
    stated = {item.name: item.type.tensor_type.shape.dim for item in small.graph.value_info}
    assert not stated["a"][1].HasField("dim_value")


def test_sizes_at_which_a_file_does_not_run_are_passed_over() -> None:
    """No inference tells what the operation of another domain gives: only a run does."""
    nodes = [
        helper.make_node("FusedMatMul", ["x", "w1"], ["h"], domain="com.microsoft"),
        helper.make_node("Reshape", ["h", "flat"], ["f"]),
        helper.make_node("MatMul", ["f", "w2"], ["y"]),
    ]
    weights = {"w1": normal(6, 16), "w2": normal(16 * 11, 4), "flat": np.array([-1, 16 * 11])}
    model = graph(nodes, weights, {"x": ["n", "t", 6]}, {"y": ["n", 4]}, opset=17)
    model.graph.initializer.add(name="eleven", dims=[1], data_type=TensorProto.INT64).int64_data[
        :
    ] = [11]
    model.graph.node.add(op_type="Identity", input=["eleven"], output=["told"])
    model.graph.output.add().CopyFrom(helper.make_tensor_value_info("told", TensorProto.INT64, [1]))
    model.opset_import.add(domain="com.microsoft", version=1)
    small = graphprune.shrink(model, 0.4, compensate=False)
    assert run(small, x=normal(3, 11, 6))[0].shape == (3, 4)


def test_shapes_stated_of_layers_that_become_one() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 4),
        helper.make_node("Conv", ["a", "w2"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    weights = {"w1": normal(16, 3, 3, 3), "w2": normal(8, 16, 1, 1)}
    sizes = {"x": ["n", 3, 8, 8]}, {"y": ["n", 8, 8, 8]}
    model = shape_inference.infer_shapes(graph(nodes, weights, *sizes, opset=17))
    small = graphprune.compact(model)
    assert [node.op_type for node in small.graph.node] == ["Conv", "Relu"]
    x = normal(3, 3, 8, 8)
    np.testing.assert_allclose(run(small, x=x)[0], run(model, x=x)[0], rtol=1e-4, atol=1e-5)


def test_a_scan_whose_body_is_told_the_shapes_around_it() -> None:
    """Its states have no shape of their own; ONNX Runtime infers them from the operands'."""
    made = helper.make_tensor_value_info
    node = helper.make_node
    body = helper.make_graph(
        [
            node("MatMul", ["xi", "u"], ["p"]),
            node("MatMul", ["s", "v"], ["q"]),
            node("Add", ["p", "q"], ["next"]),
            node("Identity", ["next"], ["shown"]),
        ],
        "body",
        [made(name, TensorProto.FLOAT, None) for name in ("s", "xi")],
        [made(name, TensorProto.FLOAT, None) for name in ("next", "shown")],
        [
            numpy_helper.from_array(normal(*size), n)
            for n, size in (("u", (16, 12)), ("v", (12, 12)))
        ],
    )
    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "w2"], ["c"]),
        node("Transpose", ["c"], ["d"], perm=[1, 0, 2]),
        node("Scan", ["start", "d"], ["last", "all"], body=body, num_scan_inputs=1),
        node("MatMul", ["last", "w3"], ["y"]),
    ]
    weights = {
        "w1": normal(6, 24),
        "w2": normal(24, 16),
        "w3": normal(12, 4),
        "start": normal(2, 12),
    }
    model = graph(nodes, weights, {"x": [2, "t", 6]}, {"y": [2, 4]}, opset=17)
    small = graphprune.shrink(model, 0.3, compensate=False)
    assert run(small, x=normal(2, 5, 6))[0].shape == (2, 4)


@pytest.mark.parametrize("side", [36, 100])
def test_sides_that_a_layer_behind_a_flattened_map_fixes(side: int) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1] * 4, strides=[4, 4]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w2"], ["y"]),
    ]
    weights = {"w1": normal(8, 3, 3, 3), "w2": normal(8 * (side // 4) ** 2, 4)}
    model = graph(nodes, weights, {"x": ["n", 3, "h", "w"]}, {"y": ["n", 4]}, opset=17)
    small = graphprune.shrink(model, 0.4, compensate=False)
    assert run(small, x=normal(2, 3, side, side))[0].shape == (2, 4)
