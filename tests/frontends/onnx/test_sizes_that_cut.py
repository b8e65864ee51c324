"""What is cut at a place that follows the sizes of inputs stays whole; results are no larger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphprune
from graphprune.frontends.onnx.whole import run_model

RNG = np.random.default_rng(0)


def stored(name: str, *shape: int) -> onnx.TensorProto:
    """Random numbers as an initializer."""
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def cut_by_length() -> onnx.ModelProto:
    """A layer of which as many results are read as the input is long."""
    nodes = [
        helper.make_node("ReduceMean", ["x", "last"], ["m"], keepdims=0),
        helper.make_node("Gemm", ["m", "w0", "b0"], ["h0"]),
        helper.make_node("Relu", ["h0"], ["h"]),
        helper.make_node("Gemm", ["h", "w1", "b1"], ["y0"]),
        helper.make_node("Shape", ["x"], ["s"], start=2, end=3),
        helper.make_node("Slice", ["y0", "zero", "s", "one"], ["y"]),
    ]
    weights = [stored("w0", 4, 32), stored("b0", 32), stored("w1", 32, 64), stored("b1", 64)]
    for name, number in (("last", [2]), ("zero", [0]), ("one", [1])):
        weights.append(numpy_helper.from_array(np.array(number), name))
    graph = helper.make_graph(
        nodes,
        "cut",
        [helper.make_tensor_value_info("x", 1, ["n", 4, "t"])],
        [helper.make_tensor_value_info("y", 1, ["n", "t"])],
        weights,
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


@pytest.mark.parametrize("verify", [True, False])
def test_what_longer_inputs_read_is_no_dead_channel(verify: bool) -> None:
    model = cut_by_length()
    small = graphprune.compact(model, verify=verify)
    for length in (3, 10, 50):
        x = RNG.standard_normal((2, 4, length)).astype(np.float32)
        (expected,), (found,) = run_model(model, {"x": x}), run_model(small, {"x": x})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_what_longer_inputs_read_is_not_shrunk() -> None:
    small = graphprune.shrink(cut_by_length(), 0.4, compensate=False)
    shapes = {t.name: tuple(t.dims) for t in small.graph.initializer}
    assert shapes["w1"][1] == 64 and shapes["w1"][0] < 32


def test_no_computed_number_outweighs_what_computes_it(tmp_path: Path) -> None:
    """A table of 64 by 64 that is the product of two rows of 64."""
    nodes = [
        helper.make_node("Mul", ["row", "column"], ["table"]),
        helper.make_node("MatMul", ["x", "table"], ["h"]),
        helper.make_node("Identity", ["h"], ["y"]),
    ]
    sides = [helper.make_tensor_value_info(name, 1, ["n", 64]) for name in ("x", "y")]
    held = [stored("row", 1, 64), stored("column", 64, 1)]
    known = [helper.make_tensor_value_info("h", 1, ["n", 64])]
    graph = helper.make_graph(nodes, "table", sides[:1], sides[1:], held, value_info=known)
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    small = graphprune.compact(model)
    assert small.ByteSize() <= model.ByteSize()
    assert len(small.graph.node) == 2
    assert len({item.name for item in small.graph.value_info}) == len(small.graph.value_info)
