"""What is cut at a place that follows the sizes of inputs stays whole; results are no larger."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import graphprune
from graphprune.frontends.onnx.whole import run_model
from tests.frontends.onnx.exports import shapes, two_layers

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


@pytest.mark.parametrize("opset", [9, 11, 13])
def test_old_opsets_resize_to_computed_sizes_and_are_quantised(opset: int) -> None:
    """Of opset 9 the scales are joined from ones and computed numbers."""

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(3, 16, 3, stride=2, padding=1)
            self.out = nn.Conv2d(16, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.down(x))
            size = x.shape[2:]
            found: torch.Tensor = self.out(nn.functional.interpolate(y, size=size, mode="bilinear"))
            return found

    file, x = io.BytesIO(), torch.randn(2, 3, 16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sizes = {0: "n", 2: "h", 3: "w"}
        torch.onnx.export(
            Pyramid().eval(), (x,), file, dynamo=False, opset_version=opset, input_names=["x"],
            dynamic_axes={"x": sizes},
        )  # fmt: skip
    model = onnx.load_from_string(file.getvalue())
    small = graphprune.shrink(model, 0.5, compensate=False)
    for size in (16, 24):
        image = RNG.standard_normal((3, 3, size, size)).astype(np.float32)
        (found,) = run_model(small, {"x": image})
        assert found.shape == (3, 2, size, size)
    data = torch.randn(16, 3, 16, 16)
    if opset < 10:
        with pytest.raises(graphprune.GraphPruneError, match="opset 9 has no quantized numbers"):
            graphprune.quantise(model, data=data)
    else:
        graphprune.quantise(model, data=data)


def test_what_goes_at_no_cost_makes_no_file_larger() -> None:
    """What would be told of it takes more room than the one channel that goes."""
    model = two_layers()
    weight = next(t for t in model.graph.initializer if t.name == "w2")
    array = numpy_helper.to_array(weight).copy()
    array[3] = 0
    weight.CopyFrom(numpy_helper.from_array(array, "w2"))
    small = graphprune.compact(model)
    assert shapes(small)["w2"] == (15, 3)
    assert small.ByteSize() <= model.ByteSize()
