"""Fused operations of ONNX Runtime: cut as the operations that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_dynamic,
    quantize_static,
)
from torch import nn

import graphprune
from graphprune.frontends.torch.saving import silent
from tests.frontends.onnx.exports import Array, export, graph, normal, run, shapes


def fused(
    kind: str, operands: list[str], outputs: list[str] | None = None, **attrs: Any
) -> onnx.NodeProto:
    return helper.make_node(
        kind, operands, outputs or ["m"], name=kind, domain="com.microsoft", **attrs
    )


def between(
    node: onnx.NodeProto,
    more: dict[str, Array],
    width: int = 16,
    before: onnx.NodeProto | None = None,
) -> ModelProto:
    """A fused operation on the result of a product, with a product behind it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        *([] if before is None else [before]),
        node,
        helper.make_node("MatMul", ["m", "w2"], ["y"], name="second"),
    ]
    weights = {"w1": normal(8, 16), "w2": normal(width, 3), **more}
    model = graph(nodes, weights, {"x": ["b", "t", 8]}, {"y": ["b", "t", 3]}, opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def octets(*shape: int) -> Array:
    """Numbers of a byte."""
    return np.random.default_rng(sum(shape)).integers(-60, 60, shape).astype(np.int8)


def quantized(kind: str, operands: list[str], width: int = 16, **attrs: Any) -> ModelProto:
    """An operation on quantized numbers, between what makes them and what reads them."""
    model = between(fused(kind, operands, ["q"], **attrs), dict(SCALES), width)
    node = model.graph.node[1]
    first = helper.make_node("QuantizeLinear", ["h", "s1", "z1"], ["hq"], name="quantize")
    last = helper.make_node("DequantizeLinear", ["q", "s2", "z2"], ["m"], name="dequantize")
    nodes = [model.graph.node[0], first, node, last, model.graph.node[2]]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    return model


SCALES = {
    "s1": np.float32(0.05), "z1": np.uint8(128), "s2": np.float32(0.04), "z2": np.uint8(120),
}  # fmt: skip
ONE = ["hq", "s1", "z1"]
TO = ["s2", "z2"]
QUANTIZED = {
    "QLinearSigmoid": quantized("QLinearSigmoid", [*ONE, *TO]),
    "QLinearLeakyRelu": quantized("QLinearLeakyRelu", [*ONE, *TO], alpha=0.1),
    "QLinearAdd": quantized("QLinearAdd", [*ONE, *ONE, *TO]),
    "QLinearMul": quantized("QLinearMul", [*ONE, *ONE, *TO]),
    "QLinearConcat": quantized("QLinearConcat", [*TO, *ONE, *ONE], width=32, axis=2),
    "QLinearSoftmax": quantized("QLinearSoftmax", [*ONE, *TO], axis=-1, opset=13),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantized_operations_shrink(name: str) -> None:
    """Each is proven: what stays computes what the whole does with the removed slices empty."""
    plan = graphprune.plan(QUANTIZED[name], 0.5, compensate=False)
    small = plan.apply()
    assert plan.report is not None and plan.report.unknown == {}
    assert shapes(small)["w1"][1] < 16
    for batch, words in ((1, 4), (3, 5)):
        assert run(small, x=normal(batch, words, 8))[0].shape == (batch, words, 3)


CASES = {
    "Gelu": between(fused("Gelu", ["h"]), {}),
    "QuickGelu": between(fused("QuickGelu", ["h"], alpha=1.7), {}),
    "FastGelu": between(fused("FastGelu", ["h", "b1"]), {"b1": normal(16)}),
    "BiasGelu": between(fused("BiasGelu", ["h", "b1"]), {"b1": normal(16)}),
    "FusedMatMul": between(fused("FusedMatMul", ["h", "w"], alpha=0.5), {"w": normal(16, 16)}),
    "FusedMatMul transposed": between(
        fused("FusedMatMul", ["h", "w"], transB=1), {"w": normal(16, 16)}
    ),
    "SkipLayerNormalization": between(
        fused("SkipLayerNormalization", ["h", "h", "g", "b1"], epsilon=1e-5),
        {"g": normal(16), "b1": normal(16)},
    ),
    "SkipSimplifiedLayerNormalization": between(
        fused("SkipSimplifiedLayerNormalization", ["h", "h", "g"], epsilon=1e-5),
        {"g": normal(16)},
    ),
    "MultiHeadAttention": between(
        fused("MultiHeadAttention", ["h", "h", "h", "b1"], num_heads=4), {"b1": normal(48)}
    ),
    "RotaryEmbedding": between(
        fused("RotaryEmbedding", ["h", "at", "cos", "sin"], num_heads=4),
        {"at": np.array([0]), "cos": normal(18, 2), "sin": normal(18, 2) + 1},
    ),
    "DynamicQuantizeMatMul per column": between(
        fused("DynamicQuantizeMatMul", ["h", "wq", "s", "z", "b1"]),
        {
            "wq": octets(16, 16),
            "s": np.full(16, 0.01, np.float32),
            "z": np.zeros(16, np.int8),
            "b1": normal(16),
        },
    ),
    "DynamicQuantizeMatMul": between(
        fused("DynamicQuantizeMatMul", ["h", "wq", "s", "z"]),
        {"wq": octets(16, 16), "s": np.float32([0.01]), "z": np.int8([3])},
    ),
    "QAttention": between(
        fused("QAttention", ["hq", "wq", "b1", "xs", "s", "", "xz", "z"], num_heads=4),
        {"wq": octets(16, 48), "b1": normal(48), "s": np.float32(0.02), "z": np.int8(0)},
        before=helper.make_node("DynamicQuantizeLinear", ["h"], ["hq", "xs", "xz"]),
    ),
    "Attention": between(
        fused("Attention", ["h", "qkv", "b1"], num_heads=4),
        {"qkv": normal(16, 96), "b1": normal(96)},
        width=32,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fused_operations_shrink(name: str) -> None:
    """The check of the plan compares removal with masking, operation by operation."""
    model = CASES[name]
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    assert plan.report is not None and plan.report.unknown == {}
    assert plan.report.verification is not None
    assert shapes(small)["w1"][1] < 16
    for batch, words in ((1, 4), (3, 5)):
        assert run(small, x=normal(batch, words, 8))[0].shape == (batch, words, 3)


def test_the_scale_of_fused_attention_stays() -> None:
    plan = graphprune.plan(CASES["Attention"], 0.6, round_to=1, limits={"w1*": 16})
    (node,) = [n for n in plan.apply().graph.node if n.op_type == "Attention"]
    found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kept = len(plan.kept["qkv"][1]) // 3 // found["num_heads"]  # type: ignore[arg-type]
    assert kept == 8 or found["scale"] == pytest.approx(8**-0.5)


def test_fused_convolutions_are_cut_and_compensated() -> None:
    nodes = [
        fused("FusedConv", ["x", "w1", "b1"], ["h"], activation="Relu"),
        fused("FusedConv", ["h", "w2", "b2"], ["m"], activation="Relu"),
        helper.make_node("Conv", ["m", "w3"], ["y"]),
    ]
    nodes[0].name, nodes[1].name = "one", "two"
    weights = {
        "w1": normal(16, 3, 3, 3), "b1": normal(16), "w2": normal(16, 16, 1, 1), "b2": normal(16),
        "w3": normal(2, 16, 1, 1),
    }  # fmt: skip
    model = graph(nodes, weights, {"x": ["n", 3, 8, 8]}, {"y": ["n", 2, 6, 6]}, opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = normal(64, 3, 8, 8)

    def error(**how: Any) -> float:
        small = graphprune.shrink(model, 0.4, **how)
        (a,), (b,) = run(model, x=x), run(small, x=x)
        return float(np.linalg.norm(a - b) / np.linalg.norm(a))

    assert error(data=x, effort="fast") < 0.7 * error(compensate=False)


@pytest.mark.parametrize("gated", [0, 1])
def test_experts_lose_hidden_units(gated: int) -> None:
    inner = 24 * (1 + gated)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "wr"], ["r"], name="router"),
        fused("MoE", ["h", "r", "f1", "b1", "f2", "b2"], k=2, swiglu_fusion=gated,
              activation_type="swiglu" if gated else "relu"),
        helper.make_node("MatMul", ["m", "w2"], ["y"], name="second"),
    ]  # fmt: skip
    weights = {"w1": normal(8, 16), "wr": normal(16, 4), "f1": normal(4, inner, 16),
               "b1": normal(4, inner), "f2": normal(4, 16, 24), "b2": normal(4, 16),
               "w2": normal(16, 3)}  # fmt: skip
    model = graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 3]}, opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    plan = graphprune.plan(model, 0.6, compensate=False)
    small = plan.apply()
    assert plan.report is not None and plan.report.unknown == {}
    kept = shapes(small)
    assert kept["f1"][1] == kept["b1"][1] == kept["f2"][2] * (1 + gated) < inner
    assert run(small, x=normal(5, 8))[0].shape == (5, 3)


def test_a_skip_inside_a_convolution_does_not_keep_it_from_being_compensated() -> None:
    w1 = np.einsum("oj,jikl->oikl", normal(16, 4), normal(4, 3, 3, 3)) / 5
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["h"]),
        helper.make_node("Conv", ["x", "ws"], ["s"]),
        fused("FusedConv", ["h", "w2", "b2", "s"], ["m"], activation="Relu"),
        helper.make_node("Conv", ["m", "w3"], ["y"]),
    ]
    weights = {
        "w1": w1, "ws": normal(8, 3, 3, 3) / 3, "w2": normal(8, 16, 1, 1), "b2": normal(8),
        "w3": normal(2, 8, 1, 1),
    }  # fmt: skip
    model = graph(nodes, weights, {"x": ["n", 3, 8, 8]}, {"y": ["n", 2, 6, 6]}, opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = normal(64, 3, 8, 8)
    plan = graphprune.plan(model, 0.4, data=x, effort="fast", limits={"w3*": 8})
    assert plan.report is not None
    small = plan.apply()
    assert not plan.report.left and shapes(small)["w1"][0] < 16
    (a,), (b,) = run(model, x=x), run(small, x=x)
    assert np.linalg.norm(a - b) < 0.1 * np.linalg.norm(a)


class Images(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left = iter([{"x": normal(2, 3, 8, 8)} for _ in range(3)])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.left, None)


@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator], ids=["QDQ", "QOperator"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["per tensor", "per channel"])
def test_what_the_runtime_quantizes_shrinks(
    tmp_path: Path, form: QuantFormat, per_channel: bool
) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 5),
    )  # fmt: skip
    axes = {"x": {0: "n"}}
    model = export(net, (torch.randn(1, 3, 8, 8),), input_names=["x"], dynamic_axes=axes)
    onnx.save(model, tmp_path / "float.onnx")
    with silent():
        quantize_static(
            tmp_path / "float.onnx", tmp_path / "small.onnx", Images(), quant_format=form,
            per_channel=per_channel,
        )  # fmt: skip
    plan = graphprune.plan(tmp_path / "small.onnx", 0.4, compensate=False)
    small = plan.apply()
    assert plan.report is not None and plan.report.unknown == {}
    assert run(small, x=normal(3, 3, 8, 8))[0].shape == (3, 5)


def test_recurrent_layers_of_bytes_shrink(tmp_path: Path) -> None:
    weights = {
        "w": normal(1, 64, 8), "r": normal(1, 64, 16) / 4, "b": normal(1, 128), "w2": normal(16, 3),
        "one": np.array([1]),
    }  # fmt: skip
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b"], ["h"], hidden_size=16),
        helper.make_node("Squeeze", ["h", "one"], ["s"]),
        helper.make_node("MatMul", ["s", "w2"], ["y"]),
    ]
    model = graph(nodes, weights, {"x": ["t", "n", 8]}, {"y": ["t", "n", 3]}, opset=17)
    onnx.save(model, tmp_path / "float.onnx")
    with silent():
        quantize_dynamic(tmp_path / "float.onnx", tmp_path / "small.onnx")
    plan = graphprune.plan(tmp_path / "small.onnx", 0.5, compensate=False)
    small = plan.apply()
    assert plan.report is not None and plan.report.unknown == {}
    assert "DynamicQuantizeLSTM" in {node.op_type for node in small.graph.node}
    assert run(small, x=normal(5, 2, 8))[0].shape == (5, 2, 3)


def test_packed_numbers_lose_their_outputs() -> None:
    node = fused("MatMulNBits", ["h", "wq", "s"], K=16, N=16, bits=4, block_size=16)
    model = between(node, {"wq": octets(16, 1, 8).view(np.uint8), "s": normal(16)})
    plan = graphprune.plan(model, 0.2, compensate=False)
    kept = plan.kept["wq"]
    assert kept[0] is not None and kept[1:] == [None, None]


def test_query_heads_of_each_key_head_go() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"], name="queries"),
        helper.make_node("MatMul", ["x", "wk"], ["k"], name="keys"),
        helper.make_node("MatMul", ["x", "wv"], ["v"], name="values"),
        fused("GroupQueryAttention", ["q", "k", "v", "", "", "lengths", "total"],
              ["m", "pk", "pv"], num_heads=8, kv_num_heads=2),
        helper.make_node("MatMul", ["m", "wo"], ["y"], name="out"),
    ]  # fmt: skip
    weights = {
        "wq": normal(16, 64), "wk": normal(16, 16), "wv": normal(16, 16), "wo": normal(64, 5),
        "lengths": np.int32([3, 3]), "total": np.int32(4),
    }  # fmt: skip
    model = graph(nodes, weights, {"x": [2, 4, 16]}, {"y": [2, 4, 5]}, opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    small = graphprune.shrink(model, 0.3, compensate=False)
    found = {a.name: a.i for n in small.graph.node for a in n.attribute}
    assert found["kv_num_heads"] in (1, 2) and found["num_heads"] < 8
    assert run(small, x=normal(2, 4, 16))[0].shape == (2, 4, 5)


def test_lengths_of_sequences_lie_along_the_samples() -> None:
    """Otherwise data are read in pieces of as many samples as were captured, each as one."""
    nodes = [
        helper.make_node("MatMul", ["x", "wq"], ["q"]),
        helper.make_node("MatMul", ["x", "wk"], ["k"]),
        helper.make_node("MatMul", ["x", "wv"], ["v"]),
        helper.make_node("Cast", ["last"], ["lengths"], to=TensorProto.INT32),
        fused("GroupQueryAttention", ["q", "k", "v", "", "", "lengths", "total"],
              ["m", "pk", "pv"], num_heads=4, kv_num_heads=2),
        helper.make_node("MatMul", ["m", "wo"], ["y"]),
    ]  # fmt: skip
    weights = {
        "wq": normal(16, 32), "wk": normal(16, 16), "wv": normal(16, 16), "wo": normal(32, 5),
        "total": np.int32(4),
    }  # fmt: skip
    inputs: dict[str, list[Any]] = {"x": ["n", 4, 16], "last": ["n"]}
    model = graph(nodes, weights, inputs, {"y": ["n", 4, 5]}, opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    data = [{"x": normal(4, 4, 16), "last": np.full(4, 3, np.float32)}] * 4
    plan = graphprune.plan(model, 0.3, data=data, effort="fast")
    plan.apply()
    assert "16 inputs from data" in str(plan.report)


@pytest.mark.parametrize("integers", [False, True])
def test_the_projection_inside_attention_makes_up_for_what_goes(integers: bool) -> None:
    """What it reads are mixtures of four; queries, keys and values are as they were."""
    w1 = np.einsum("ij,jo->io", normal(8, 4), normal(4, 16))
    more: dict[str, Array] = {"w": 0.3 * normal(16, 48), "b": normal(48)}
    node, before = fused("Attention", ["h", "w", "b"], num_heads=4), None
    if integers:
        more |= {"w": np.round(more["w"] * 50).astype(np.int8), "ws": np.float32(0.02)}
        before = helper.make_node("DynamicQuantizeLinear", ["h"], ["hq", "hs", "hz"], name="to")
        node = fused("QAttention", ["hq", "w", "b", "hs", "ws", "", "hz"], num_heads=4)
    model = between(node, {**more, "w1": w1}, before=before)
    data = normal(64, 5, 8)
    plan = graphprune.plan(
        model, 0.5, of="channels", data=data, effort="fast", keep=("w2", "b"), seed=0
    )
    small = plan.apply()
    assert plan.report is not None and not plan.report.left and plan.kept["w1"][1] is not None
    wanted, found = run(model, x=data)[0], run(small, x=data)[0]
    assert np.square(found - wanted).sum() < 0.02 * np.square(wanted - wanted.mean((0, 1))).sum()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("pointed", [False, True])
def test_packed_numbers_lose_whole_blocks_of_what_they_read(flat: bool, pointed: bool) -> None:
    """By twos where one byte holds the zero points of two blocks."""
    weights = {
        "w1": normal(8, 64), "wq": octets(6, 4, 8).view(np.uint8),
        "s": abs(normal(*((24,) if flat else (6, 4)))),
    }  # fmt: skip
    if pointed:
        weights["z"] = octets(*((12,) if flat else (6, 2))).view(np.uint8)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        fused("MatMulNBits", ["h", "wq", "s", *(["z"] if pointed else [])],
              ["y"], K=64, N=6, bits=4, block_size=16),
    ]  # fmt: skip
    model = graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 6]}, opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    small = graphprune.shrink(model, 0.5, of="channels", compensate=False)
    kept = {tensor.name: tuple(tensor.dims) for tensor in small.graph.initializer}
    points = {"z": (6,) if flat else (6, 1)} if pointed else {}
    assert kept == {"w1": (8, 32), "wq": (6, 2, 8), "s": (12,) if flat else (6, 2), **points}
    assert [a.i for n in small.graph.node for a in n.attribute if a.name == "K"] == [32]
    assert run(small, x=normal(3, 8))[0].shape == (3, 6)


def test_results_in_the_middle_are_left_out() -> None:
    """As ONNX Runtime's optimiser writes skips ahead of norms: the sum is the fourth result."""
    skip = fused("SkipLayerNormalization", ["h", "b"], ["m", "", "", "s"])
    weights = {"w1": normal(8, 16), "w2": normal(16, 16), "g": abs(normal(16)) + 0.5,
               "w3": normal(16, 40), "w4": normal(40, 16), "w5": normal(16, 3)}  # fmt: skip
    skip.input.append("g")
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["b"]),
        skip,
        helper.make_node("MatMul", ["m", "w3"], ["u"]),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("MatMul", ["r", "w4"], ["v"]),
        helper.make_node("Add", ["s", "v"], ["z"]),
        helper.make_node("MatMul", ["z", "w5"], ["y"]),
    ]
    model = graph(nodes, weights, {"x": ["n", 4, 8]}, {"y": ["n", 4, 3]}, opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    plan = graphprune.plan(model, 0.4, data=normal(64, 4, 8), effort="fast")
    small = plan.apply()
    assert plan.report is not None and not plan.report.unknown and not plan.report.left
    assert run(small, x=normal(3, 4, 8))[0].shape == (3, 4, 3)
