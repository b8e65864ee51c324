"""Correct results that are accepted, whatever a file computes its numbers from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import graphprune
from graphprune.frontends.onnx.objects import apart, as_value
from graphprune.frontends.torch.saving import silent
from graphprune.statistics.made.paint import paintable, painted
from tests.frontends.onnx.exports import Array, graph, normal, run, shapes


def node(kind: str, inputs: list[str], *outputs: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, list(outputs), **attrs)


def perceptron(more: list[onnx.NodeProto], weights: dict[str, Array], **how: Any) -> ModelProto:
    """Two products with a rectifier between them, and what comes behind them."""
    nodes = [
        node("MatMul", ["x", "w1"], "a"),
        node("Relu", ["a"], "b"),
        node("MatMul", ["b", "w2"], "c"),
        *more,
    ]
    weights = {"w1": normal(8, 16), "w2": normal(16, 4), **weights}
    return graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 4]}, **how)


def test_a_range_of_floating_point_follows_from_a_shape() -> None:
    nodes = [
        node("Conv", ["x", "w1"], "a"),
        node("Conv", ["a", "w2"], "c"),
        node("Shape", ["c"], "s"),
        node("Gather", ["s", "three"], "i"),
        node("Cast", ["i"], "f", to=TensorProto.FLOAT),
        node("Range", ["zero", "f", "one"], "grid"),
        node("Add", ["c", "grid"], "y"),
    ]
    weights = {
        "w1": normal(16, 3, 3, 3), "w2": normal(4, 16, 1, 1), "three": np.array(3),
        "zero": np.float32(0), "one": np.float32(1),
    }  # fmt: skip
    sizes = {"x": ["n", 3, "h", "w"]}, {"y": ["n", 4, "h2", "w2"]}
    plan = graphprune.plan(graph(nodes, weights, *sizes, opset=17), 0.5)
    small = plan.apply()
    assert plan.report is not None and plan.report.verification is not None
    assert run(small, x=normal(1, 3, 9, 7))[0].shape == (1, 4, 7, 5)


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_zero_points_stand_for_zero(tmp_path: Path, kind: QuantType, per_channel: bool) -> None:
    before, after = tmp_path / "float.onnx", tmp_path / "small.onnx"
    model = perceptron([node("Tanh", ["c"], "y")], {"w1": normal(8, 16) + 1})
    onnx.save(model, before)
    with silent():
        quantize_dynamic(before, after, weight_type=kind, per_channel=per_channel)
    plan = graphprune.plan(after, 0.5, compensate=False)
    small = plan.apply()
    assert plan.report is not None and plan.report.verification is not None
    assert shapes(small)["w1_quantized"] == (8, 8)


def test_a_loop_reads_one_number_twice() -> None:
    body = helper.make_graph(
        [
            node("Cast", ["rows"], "f", to=TensorProto.FLOAT),
            node("Add", ["state", "f"], "next"),
            node("Identity", ["going"], "goes"),
            node("Identity", ["k"], "same"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("k", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("same", TensorProto.INT64, []),
        ],
    )
    more = [
        node("Shape", ["x"], "s"),
        node("Gather", ["s", "zero"], "rows"),
        node("Loop", ["trip", "yes", "c", "rows"], "y", "last", body=body),
    ]
    numbers = {"zero": np.array(0), "trip": np.array(3), "yes": np.array(True)}
    model = perceptron(more, numbers, opset=15)
    small = graphprune.shrink(model, 0.5, compensate=False)
    assert shapes(small)["w1"] == (8, 8)
    assert run(small, x=normal(3, 8))[0].shape == (3, 4)


def test_a_graph_inside_says_no_types_of_what_it_takes_from_outside() -> None:
    """As exported from TorchScript functions; the runtime follows them."""
    body = helper.make_graph(
        [node("Mul", ["w3", "state"], "next"), node("Identity", ["going"], "goes")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_value_info("state", onnx.TypeProto()),
        ],
        [helper.make_value_info(name, onnx.TypeProto()) for name in ("goes", "next")],
    )
    numbers = {"w3": normal(4), "trip": np.array(3), "yes": np.array(True)}
    model = perceptron([node("Loop", ["trip", "yes", "c"], "y", body=body)], numbers, opset=15)
    small = graphprune.shrink(model, 0.4, compensate=False)
    assert shapes(small)["w1"][1] < 16
    assert run(small, x=normal(3, 8))[0].shape == (3, 4)


def test_sizes_that_are_put_together_are_valid() -> None:
    nodes = [
        node("Conv", ["x", "w1"], "a", pads=[1] * 4),
        node("MaxPool", ["a"], "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p", "w2"], "d", pads=[1] * 4),
        node("Shape", ["a"], "sa"),
        node("Shape", ["d"], "sd"),
        node("Slice", ["sa", "two", "four", "zero"], "hw"),
        node("Slice", ["sd", "zero", "two", "zero"], "nc"),
        node("Concat", ["nc", "hw"], "sizes", axis=0),
        node("Resize", ["d", "", "", "sizes"], "u", mode="linear"),
        node("Concat", ["a", "u"], "c", axis=1),
        node("Conv", ["c", "w3"], "y", pads=[1] * 4),
    ]
    weights = {
        "w1": normal(8, 3, 3, 3), "w2": normal(16, 8, 3, 3), "w3": normal(4, 24, 3, 3),
        "zero": np.array([0]), "two": np.array([2]), "four": np.array([4]),
    }  # fmt: skip
    sizes = {"x": ["n", 3, "h", "w"]}, {"y": ["n", 4, "h", "w"]}
    small = graphprune.shrink(graph(nodes, weights, *sizes, opset=17), 0.5, compensate=False)
    assert run(small, x=normal(1, 3, 16, 12))[0].shape == (1, 4, 16, 12)


def test_what_nothing_reads_is_gone_and_the_report_counts_bytes(tmp_path: Path) -> None:
    more = [node("Identity", ["c"], "y"), node("Add", ["big", "big"], "nobody")]
    model = perceptron(more, {"big": normal(100, 100), "unused": normal(50, 50)})
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    assert set(shapes(small)) == {"w1", "w2"}
    assert plan.report is not None
    assert plan.report.bytes == (model.ByteSize(), small.ByteSize())
    onnx.save(model, tmp_path / "model.onnx")
    plan = graphprune.plan(tmp_path / "model.onnx", 0.5, compensate=False)
    plan.write(tmp_path / "small.onnx")
    assert plan.report is not None and plan.report.bytes is not None
    assert plan.report.bytes[1] == (tmp_path / "small.onnx").stat().st_size


def test_files_of_old_stay_valid() -> None:
    nodes = [
        node("MatMul", ["x", "w1"], "a"),
        node("Split", ["a"], "b", "c", axis=1),
        node("Concat", ["b", "c"], "d", axis=1),
        node("Slice", ["d", "start", "stop", "axis"], "e"),
        node("MatMul", ["e", "w2"], "f"),
        node("Shape", ["f"], "s"),
        node("Reshape", ["f", "s"], "y"),
    ]
    weights = {
        "w1": normal(8, 16), "w2": normal(12, 4), "start": np.array([4]), "stop": np.array([16]),
        "axis": np.array([1]),
    }  # fmt: skip
    model = graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 4]}, opset=13)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    small = graphprune.shrink(model, 0.4, compensate=False)
    onnx.checker.check_model(small, full_check=True)
    held = {tensor.name for tensor in small.graph.initializer}
    assert held <= {item.name for item in small.graph.input}


def test_results_that_are_no_tensors_are_compared_as_they_are() -> None:
    names = helper.make_tensor("names", TensorProto.STRING, [4], [b"cat", b"dog", b"cow", b"owl"])
    more = [
        node("Softmax", ["c"], "y"),
        node("ArgMax", ["y"], "i", axis=1, keepdims=0),
        node("Gather", ["names", "i"], "label"),
        node("ZipMap", ["y"], "map", domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3]),
        node("SplitToSequence", ["y"], "parts", axis=1),
    ]
    model = perceptron(more, {}, opset=15)
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    model.graph.initializer.append(names)
    number = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    kinds = {
        "map": helper.make_sequence_type_proto(helper.make_map_type_proto(7, number)),
        "parts": helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, None)),
        "label": helper.make_tensor_type_proto(TensorProto.STRING, ["n"]),
    }
    for name, kind in kinds.items():
        model.graph.output.append(helper.make_value_info(name, kind))
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    assert plan.report is not None and plan.report.verification is not None
    assert plan.report.unknown == {}
    assert shapes(small)["w1"] == (8, 8) and len(run(small, x=normal(3, 8))) == 4


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ({"a": 1.0}, {"a": 1.0 + 1e-9}, True),
        ({"a": 1.0}, {"a": 2.0}, False),
        ({"a": 1.0}, {"b": 1.0}, False),
        ([np.ones(3)], [np.ones(3), np.ones(3)], False),
        (np.array(["x", "y"], object), np.array(["x", "z"], object), False),
        (None, None, True),
    ],
)
def test_the_difference_of_results(first: object, second: object, same: bool) -> None:
    assert (apart(first, second) < 1e-6) is same
    assert bool((as_value(first) == as_value(second)).all()) is same


def test_what_nobody_knows_at_the_end_of_a_file_is_left_alone() -> None:
    more = [node("Own", ["c"], "y", domain="my.own"), node("Relu", ["y"], "z")]
    model = perceptron(more, {})
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    assert plan.report is not None and plan.report.verification is not None
    assert [n.op_type for n in small.graph.node] == ["MatMul", "Relu", "MatMul", "Own"]


def test_surely_not_is_no_fault() -> None:
    more = [
        node("Add", ["c", "far"], "d"),
        node("Sigmoid", ["d"], "y"),
    ]
    for far in (-12.0, -15.0, -17.0):
        for seed in range(3):
            model = perceptron(more, {"far": np.full(4, far, np.float32)})
            graphprune.shrink(model, 0.5, compensate=False, seed=seed)


def channels_last(kernels: dict[str, Array]) -> ModelProto:
    nodes = [
        node("Transpose", ["x"], "t", perm=[0, 3, 1, 2]),
        node("Conv", ["t", "w1"], "a"),
        node("Relu", ["a"], "b"),
        node("MaxPool", ["b"], "c", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["c", "w2"], "y"),
    ]
    sizes = {"x": ["n", "h", "w", "k"]}, {"y": ["n", 4, "h2", "w2"]}
    return graph(nodes, kernels, *sizes, opset=17)


def test_sizes_with_channels_last_follow_from_the_graph() -> None:
    model = channels_last({"w1": normal(16, 5, 3, 3), "w2": normal(4, 16, 3, 3)})
    small = graphprune.shrink(model, 0.5, compensate=False)
    assert shapes(small)["w1"][1] == 5
    assert run(small, x=normal(1, 20, 24, 5))[0].shape == (1, 4, 7, 9)


def test_pictures_may_have_their_colours_last() -> None:
    assert paintable((64, 48, 3)) and not paintable((4, 6, 3))
    made = painted(2, (64, 48, 3), 0)
    assert made.shape == (2, 64, 48, 3)
    beside = (made[:, :, 1:] - made[:, :, :-1]).abs().mean()
    assert beside < 0.9 * made.abs().mean()  # 1.13 of noise


def test_recordings_are_not_cut_into_samples() -> None:
    nodes = [
        node("Unsqueeze", ["x", "axes"], "u"),
        node("Conv", ["u", "w1"], "a"),
        node("Relu", ["a"], "b"),
        node("Conv", ["b", "w2"], "y"),
    ]
    weights = {"w1": normal(16, 1, 5, 3), "w2": normal(4, 16, 3, 3), "axes": np.array([0, 1])}
    sizes = {"x": ["frames", "bands"]}, {"y": [1, 4, "t", "f"]}
    model = graph(nodes, weights, *sizes, opset=17)
    data = [np.random.default_rng(i).normal(size=(30, 12)).astype("f") for i in range(3)]
    plan = graphprune.plan(model, 0.5, data=data)
    plan.apply()
    assert plan.report is not None and "from data" in plan.report.compensation


def test_what_an_optional_holds_is_taken_as_it_is() -> None:
    nodes = [
        node("MatMul", ["x", "w1"], "a"),
        node("Optional", ["a"], "held"),
        node("OptionalGetElement", ["held"], "b"),
        node("Relu", ["b"], "c"),
        node("MatMul", ["c", "w2"], "d"),
        node("Relu", ["d"], "e"),
        node("MatMul", ["e", "w3"], "y"),
    ]
    weights = {"w1": normal(8, 6), "w2": normal(6, 20), "w3": normal(20, 4)}
    model = graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 4]}, opset=15)
    small = graphprune.shrink(model, 0.4, compensate=False)
    assert run(small, x=normal(3, 8))[0].shape == (3, 4)
    assert shapes(small)["w2"][1] < 20 and shapes(small)["w1"][1] < 6


@pytest.mark.parametrize("kind", ["int4", "uint4"])
@pytest.mark.parametrize("blocks", [0, 16])
def test_weights_of_four_bits_shrink(kind: str, blocks: int) -> None:
    """In blocks along what is read, which stays, or for each channel that is written."""

    def drawn(*shape: int) -> Array:
        least = -8 if kind == "int4" else 0
        numbers = np.random.default_rng(sum(shape)).integers(least, least + 16, shape)
        return numbers.astype(getattr(ml_dtypes, kind))

    how = {"axis": 0, "block_size": blocks} if blocks else {"axis": 1}
    inner = (2, 48) if blocks else (48,)
    nodes = [
        node("DequantizeLinear", ["q", "s", "z"], "w1", **how),
        node("MatMul", ["x", "w1"], "a"),
        node("Relu", ["a"], "b"),
        node("MatMul", ["b", "w2"], "y"),
    ]
    weights = {"q": drawn(32, 48), "z": drawn(*inner), "s": abs(normal(*inner)) / 9 + 0.01,
               "w2": normal(48, 4)}  # fmt: skip
    model = graph(nodes, weights, {"x": ["n", 32]}, {"y": ["n", 4]}, opset=21)
    small = graphprune.shrink(model, 0.5, data=normal(64, 32), effort="fast")
    held = {tensor.name: tensor for tensor in small.graph.initializer}
    assert held["q"].dims[1] == held["z"].dims[-1] == held["w2"].dims[0] < 48
    assert held["q"].data_type == helper.np_dtype_to_tensor_dtype(weights["q"].dtype)
    onnx.checker.check_model(small, full_check=True)
    assert run(small, x=normal(3, 32))[0].shape == (3, 4)
