"""Reshapes whose targets the file computes, and numbers that come from lengths."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn

import graphprune
from graphprune.frontends.onnx.fixed import settled
from graphprune.frontends.onnx.model import read_model
from tests.frontends.onnx.exports import export, graph, masked, normal, run, shapes


class Heads(nn.Module):
    """Attention that reads every length from its input, and scales by head_dim."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)
        return self.head(x + self.out((weights @ v).transpose(1, 2).reshape(b, n, -1)))


@pytest.fixture(scope="module")
def dynamic() -> onnx.ModelProto:
    torch.manual_seed(0)
    names = {"x": {0: "batch", 1: "words"}, "y": {0: "batch", 1: "words"}}
    example = (torch.randn(2, 7, 32),)
    return export(Heads(), example, input_names=["x"], output_names=["y"], dynamic_axes=names)


def test_dynamic_sizes_stay_dynamic(dynamic: onnx.ModelProto) -> None:
    small = graphprune.shrink(dynamic, 0.4, compensate=False)
    assert any(node.op_type == "Shape" for node in small.graph.node)
    for batch, words in ((1, 3), (2, 7), (4, 11)):
        (found,) = run(small, x=normal(batch, words, 32))
        assert found.shape == (batch, words, 5)


def test_the_scale_of_the_softmax_stays(dynamic: onnx.ModelProto) -> None:
    """It is computed from head_dim, which shrinks; nothing mixes, so the masked model tells."""
    plan = graphprune.plan(dynamic, 0.5, allocation="uniform", round_to=1, compensate=False)
    assert any(row.size == 8 and row.kept < 8 for row in plan.report.groups)  # type: ignore[union-attr]
    small = plan.apply()
    x = normal(3, 6, 32)
    expected = run(masked(dynamic, plan.kept), x=x)[0]
    np.testing.assert_allclose(run(small, x=x)[0], expected, rtol=1e-4, atol=1e-5)


def test_computed_targets_are_mended_where_they_mention_widths() -> None:
    """Batch, from the input's shape, beside a width that stands in the file as a constant."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Concat", ["batch", "heads", "inner"], ["target"], axis=0),
        helper.make_node("Reshape", ["h", "target"], ["split"]),
        helper.make_node("Transpose", ["split"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("ReduceSum", ["turned", "last"], ["y"], keepdims=0),
    ]
    weights = {
        "w1": normal(8, 24),
        "zero": np.array([0]),
        "heads": np.array([4]),
        "inner": np.array([6]),
        "last": np.array([-1]),
    }
    model = graph(nodes, weights, {"x": ["batch", 8]}, {"y": ["batch", 6]})
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    assert shapes(small)["w1"] == (8, 12)
    for batch in (1, 5):
        x = normal(batch, 8)
        expected = run(masked(model, plan.kept), x=x)[0]
        np.testing.assert_allclose(run(small, x=x)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_either_layout(layout: str) -> None:
    """Convolutions between transposes, as TensorFlow's exports write them."""
    nodes, last = [], "x"
    for number in (1, 2):
        if layout == "NHWC":
            nodes.append(helper.make_node("Transpose", [last], [f"t{number}"], perm=[0, 3, 1, 2]))
            last = f"t{number}"
        nodes.append(helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"]))
        last = f"c{number}"
        if layout == "NHWC":
            nodes.append(helper.make_node("Transpose", [last], [f"u{number}"], perm=[0, 2, 3, 1]))
            nodes.append(helper.make_node("Mul", [f"u{number}", f"s{number}"], [f"v{number}"]))
            last = f"v{number}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    weights = {"w1": normal(16, 3, 3, 3), "w2": normal(4, 16, 3, 3), "s1": normal(16)}
    weights["s2"] = normal(4)
    image = ["n", 3, 9, 8] if layout == "NCHW" else ["n", 9, 8, 3]
    result = ["n", 4, 5, 4] if layout == "NCHW" else ["n", 5, 4, 4]
    model = graph(nodes, weights, {"x": image}, {"y": result})
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    assert shapes(small)["w1"] == (8, 3, 3, 3)
    x = normal(2, 3, 9, 8) if layout == "NCHW" else normal(2, 9, 8, 3)
    expected = run(masked(model, plan.kept), x=x)[0]
    np.testing.assert_allclose(run(small, x=x)[0], expected, rtol=1e-4, atol=1e-5)


def test_products_of_a_width_and_the_batch_stay_computed() -> None:
    """Heads merged into the batch: the target is batch times heads, and heads shrink."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Mul", ["batch", "heads"], ["rows"]),
        helper.make_node("Concat", ["rows", "inner"], ["merged"], axis=0),
        helper.make_node("Reshape", ["h", "merged"], ["flat"]),
        helper.make_node("Relu", ["flat"], ["active"]),
        helper.make_node("Concat", ["batch", "rest"], ["back"], axis=0),
        helper.make_node("Reshape", ["active", "back"], ["wide"]),
        helper.make_node("MatMul", ["wide", "w2"], ["y"]),
    ]
    weights = {
        "w1": normal(8, 24),
        "w2": normal(24, 3),
        "zero": np.array([0]),
        "heads": np.array([4]),
        "inner": np.array([6]),
        "rest": np.array([-1]),
    }
    model = graph(nodes, weights, {"x": ["batch", 8]}, {"y": ["batch", 3]})
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    assert shapes(small)["w1"] == (8, 12)
    for batch in (1, 5):
        x = normal(batch, 8)
        expected = run(masked(model, plan.kept), x=x)[0]
        np.testing.assert_allclose(run(small, x=x)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("own", ["HardSwish", "QuantizeLinear", "Pad", "Softmax", "NonZero"])
def test_an_open_length_is_settled_through_what_keeps_the_places_of_elements(own: str) -> None:
    """The weight says how many channels it reads, behind whatever acts on each by itself."""
    more = {
        "QuantizeLinear": [np.float32(0.1)],
        "Pad": [np.array([0, 0, 1, 0, 0, 1])],
    }.get(own, [])
    held = {f"m{i}": np.asarray(array) for i, array in enumerate(more)}
    nodes = [
        helper.make_node(own, ["x", *held], ["h"]),
        *([helper.make_node("DequantizeLinear", ["h", "m0"], ["k"])] if own[0] == "Q" else []),
        helper.make_node("Conv", ["k" if own[0] == "Q" else "h", "w"], ["y"]),
    ]
    weights = {**held, "w": normal(6, 4, 3)}
    model = graph(nodes, weights, {"x": ["n", "c", "l"]}, {"y": ["n", 6, "m"]})
    wanted = {} if own == "NonZero" else {("x", 1): 4}
    assert settled(read_model(model)) == wanted


@pytest.mark.parametrize(
    ("kind", "held", "wanted"),
    [
        ("Conv", {"w": (6, 4, 3)}, {1: 4}),
        ("ConvTranspose", {"w": (6, 4, 3)}, {1: 6}),
        ("ConvInteger", {"w": (6, 4, 3)}, {1: 4}),
        ("MatMul", {"w": (6, 4)}, {2: 6}),
        ("MatMul", {"w": (5, 6, 4)}, {0: 5, 2: 6}),
        ("MatMulInteger", {"w": (6, 4)}, {2: 6}),
        ("LayerNormalization", {"gain": (7,)}, {2: 7}),
        ("BatchNormalization", dict.fromkeys("gbmv", (7,)), {1: 7}),
        ("InstanceNormalization", dict.fromkeys("gb", (7,)), {1: 7}),
        ("PRelu", {"slope": (7, 1)}, {1: 7}),
        ("LSTM", {"w": (1, 20, 9), "r": (1, 20, 5)}, {2: 9}),
        ("GRU", {"w": (1, 15, 9), "r": (1, 15, 5)}, {2: 9}),
        ("Add", {"w": (7,)}, {2: 7}),
        ("Gather", {"rows": (7,)}, {}),
    ],
)
def test_weights_settle_the_lengths_that_their_rule_reads(
    kind: str, held: dict[str, tuple[int, ...]], wanted: dict[int, int]
) -> None:
    whole = np.int8 if kind.endswith("Integer") else np.int64 if kind == "Gather" else np.float32
    weights = {name: np.ones(shape, whole) for name, shape in held.items()}
    nodes = [helper.make_node(kind, ["x", *held], ["y"])]
    model = graph(nodes, weights, {"x": ["a", "b", "c"]}, {"y": ["d", "e", "f"]})
    assert settled(read_model(model)) == {("x", at): size for at, size in wanted.items()}
