"""Files that runtimes take, though some part of the tools does not."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

import graphprune
from graphprune.frontends.onnx.model import read_model
from graphprune.frontends.onnx.tidy import tidied
from tests.frontends.onnx.exports import graph, masked, normal, run, shapes, two_layers


def node(kind: str, inputs: list[str], *outputs: str, **attrs: Any) -> NodeProto:
    return helper.make_node(kind, inputs, list(outputs), **attrs)


def test_nodes_that_stand_before_what_they_read() -> None:
    model = two_layers()
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(nodes[::-1])
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    onnx.checker.check_model(small, full_check=True)
    assert shapes(small)["w1"] == (8, 8)
    assert plan.report is not None and plan.report.bytes == (model.ByteSize(), small.ByteSize())
    assert [n.op_type for n in model.graph.node] == [n.op_type for n in nodes[::-1]]


def test_what_the_runtime_has_no_kernel_of() -> None:
    """ONNX Runtime takes no recurrent cell with the batch first; the reference does."""
    nodes = [
        node("MatMul", ["x", "w1"], "a"),
        node("Relu", ["a"], "b"),
        node("GRU", ["b", "w", "r"], "", "h", hidden_size=8, layout=1),
        node("Squeeze", ["h", "one"], "s"),
        node("MatMul", ["s", "w2"], "y"),
    ]
    weights = {"w1": normal(6, 16), "w": normal(1, 24, 16) / 4, "r": normal(1, 24, 8) / 4,
               "w2": normal(8, 3), "one": np.array([1])}  # fmt: skip
    model = graph(nodes, weights, {"x": ["n", 5, 6]}, {"y": ["n", 3]}, opset=17)
    plan = graphprune.plan(model, 0.4, compensate=False)
    small = plan.apply()
    assert plan.report is not None and plan.report.verification is not None
    assert shapes(small)["w1"][1] == shapes(small)["w"][2] < 16


def test_results_of_unknown_operations_that_have_types_in_part() -> None:
    nodes = [
        node("MatMul", ["x", "w1"], "a"),
        node("Relu", ["a"], "b"),
        node("MatMul", ["b", "w2"], "c"),
        node("Split2", ["c"], "d", "e", domain="acme"),
        node("MatMul", ["d", "w3"], "y"),
    ]
    weights = {"w1": normal(8, 32), "w2": normal(32, 6), "w3": normal(6, 4)}
    model = graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 4], "e": ["n", "q"]}, opset=17)
    model.opset_import.append(helper.make_opsetid("acme", 1))
    model.graph.value_info.append(helper.make_tensor_value_info("d", TensorProto.FLOAT, ["n", 6]))
    assert shapes(graphprune.shrink(model, 0.5, compensate=False))["w1"][1] < 32


@pytest.mark.parametrize("kind", ["LayerNormalization", "SimplifiedLayerNormalization"])
def test_operators_that_the_runtime_adds_to_onnxs_own(kind: str) -> None:
    """Its optimizer writes them into files of any opset."""
    nodes = [
        node("MatMul", ["x", "w1"], "a"),
        node(kind, ["a", "g"], "b", axis=-1, epsilon=1e-5),
        node("MatMul", ["b", "w2"], "c"),
        node("Relu", ["c"], "d"),
        node("MatMul", ["d", "w3"], "y"),
    ]
    weights = {"w1": normal(8, 16), "g": normal(16) + 1, "w2": normal(16, 32), "w3": normal(32, 4)}
    model = graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 4]}, opset=14)
    plan = graphprune.plan(model, 0.4, compensate=False, keep=["w1"])
    small = plan.apply()
    assert [n.domain for n in small.graph.node] == [""] * 5
    assert [item.domain for item in small.opset_import] == [""]
    assert shapes(small)["w2"][1] < 32
    x = normal(3, 8)
    expected = run(masked(model, plan.kept), x=x)[0]
    np.testing.assert_allclose(run(small, x=x)[0], expected, rtol=1e-4, atol=1e-5)
    less = graphprune.plan(model, 0.4, compensate=False, keep=["w3"]).apply()
    held = {t.name: onnx.numpy_helper.to_array(t) for t in less.graph.initializer}
    h = x @ held["w1"]
    assert h.shape[1] < 16
    centred = h - h.mean(-1, keepdims=True) if kind == "LayerNormalization" else h
    h = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5) * held["g"]
    expected = np.maximum(h @ held["w2"], 0) @ held["w3"]
    np.testing.assert_allclose(run(less, x=x)[0], expected, rtol=1e-4, atol=1e-5)


def test_what_onnx_withdrew_and_the_runtime_still_runs() -> None:
    """Group normalisation with a gain for each group, of opsets 18 to 20."""
    nodes = [
        node("Conv", ["x", "w1"], "a", kernel_shape=[1, 1]),
        node("GroupNormalization", ["a", "g", "b"], "h", num_groups=4),
        node("Conv", ["h", "w2"], "y", kernel_shape=[1, 1]),
    ]
    weights = {
        "w1": normal(16, 3, 1, 1), "g": normal(4) + 1, "b": normal(4), "w2": normal(2, 16, 1, 1),
    }  # fmt: skip
    model = graph(nodes, weights, {"x": ["n", 3, 5, 5]}, {"y": ["n", 2, 5, 5]}, opset=18)
    small = graphprune.shrink(model, 0.5, compensate=False)
    assert shapes(small)["w1"][0] == 8
    assert run(small, x=normal(3, 3, 5, 5))[0].shape == (3, 2, 5, 5)


def test_a_layout_for_one_machine_is_told_as_such() -> None:
    nodes = [
        node("ReorderInput", ["x"], "a", domain="com.microsoft.nchwc", channels_last=0),
        node("Conv", ["a", "w1"], "b", domain="com.microsoft.nchwc", kernel_shape=[1, 1]),
        node("ReorderOutput", ["b"], "c", domain="com.microsoft.nchwc", channels=16),
        node("Conv", ["c", "w2"], "y"),
    ]
    weights = {"w1": normal(16, 16, 1, 1), "w2": normal(4, 16, 1, 1)}
    model = graph(nodes, weights, {"x": ["n", 16, 4, 4]}, {"y": ["n", 4, 4, 4]}, opset=17)
    model.opset_import.append(helper.make_opsetid("com.microsoft.nchwc", 1))
    with pytest.raises(graphprune.BudgetError, match="at most at the extended level"):
        graphprune.shrink(model, 0.5)


def test_compact_leaves_what_is_stated_of_results() -> None:
    """onnxslim states the lengths that it finds in place of their names."""
    pytest.importorskip("onnxslim")
    model = two_layers()
    model.graph.node.insert(0, node("Identity", ["x"], "x2"))
    second = model.graph.node[1]
    second.input[0] = "x2"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
    weight = next(t for t in model.graph.initializer if t.name == "w1")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[:, :4] = 0
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "w1"))
    bias = next(t for t in model.graph.initializer if t.name == "b1")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.where(np.arange(16) < 4, 0, normal(16)), "b1"))
    small = graphprune.compact(model)
    assert shapes(small)["w1"] == (8, 12)
    assert list(small.graph.output) == list(model.graph.output)


def _half_dead() -> onnx.ModelProto:
    """Two layers, every second hidden unit of which is not read."""
    second = normal(16, 3)
    second[::2] = 0
    nodes = [
        node("MatMul", ["x", "w1"], "h"),
        node("Relu", ["h"], "r"),
        node("MatMul", ["r", "w2"], "y"),
    ]
    return graph(nodes, {"w1": normal(8, 16), "w2": second}, {"x": ["n", 8]}, {"y": ["n", 3]})


def _constant_number(model: onnx.ModelProto) -> None:
    """Of which onnxslim by itself makes a number of double precision."""
    model.graph.node.insert(1, node("Constant", [], "k", value_float=0.5))
    model.graph.node.insert(2, node("Mul", ["h", "k"], "hk"))
    model.graph.node[3].input[0] = "hk"


def _result_twice(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.output[0])


def _noise(model: onnx.ModelProto) -> None:
    """As many numbers as there are channels, so that other numbers are drawn for fewer."""
    model.graph.node.insert(1, node("RandomNormalLike", ["h"], "noise", seed=1.0))
    model.graph.node.insert(2, node("Add", ["h", "noise"], "hn"))
    model.graph.node[3].input[0] = "hn"


def _bytes(model: onnx.ModelProto) -> None:
    """Floats of one byte, for which torch lacks many operations."""
    for at, tensor in enumerate(model.graph.initializer):
        held = onnx.numpy_helper.to_array(tensor).astype(ml_dtypes.float8_e4m3fn)
        tensor.CopyFrom(onnx.numpy_helper.from_array(held, tensor.name))
        model.graph.node.insert(0, node("DequantizeLinear", [tensor.name, "s"], f"f{at}"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5), "s"))
    for at in (0, 1):
        model.graph.node[2 + 2 * at].input[1] = f"f{at}"


def test_onnxslim_keeps_numbers_of_single_precision() -> None:
    pytest.importorskip("onnxslim")
    model = _half_dead()
    _constant_number(model)
    found = tidied(read_model(model))
    assert found is not None
    assert {tensor.data_type for tensor in found.model.graph.initializer} == {TensorProto.FLOAT}


@pytest.mark.parametrize("change", [_constant_number, _result_twice, _noise, _bytes])
def test_compact_takes_it(change: Any) -> None:
    model = _half_dead()
    change(model)
    assert shapes(graphprune.compact(model))["w1"] == (8, 8)


def _no_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def _no_name(model: onnx.ModelProto) -> None:
    model.graph.name = ""


def _wrong_width(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4


def _wrong_between(model: onnx.ModelProto) -> None:
    for name, shape in (("h", [7, 99]), ("r", [1, 1, 16])):
        model.graph.value_info.append(helper.make_tensor_value_info(name, 1, shape))


@pytest.mark.parametrize("change", [_no_shape, _no_name, _wrong_width, _wrong_between])
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_what_is_stated_wrongly_or_not_at_all(change: Any, ratio: float) -> None:
    """Runtimes take it; the smaller file is right."""
    model = two_layers()
    change(model)
    small = graphprune.shrink(model, ratio, compensate=False)
    onnx.checker.check_model(small, full_check=True)
    assert run(small, x=normal(5, 8))[0].shape == (5, 3)


def test_what_is_computed_in_few_bits_is_compared_so() -> None:
    nodes = [
        node("Cast", ["x"], "x16", to=TensorProto.BFLOAT16),
        *(onnx.NodeProto.FromString(n.SerializeToString()) for n in two_layers().graph.node),
        node("Cast", ["y"], "z", to=TensorProto.FLOAT),
    ]
    nodes[1].input[0] = "x16"
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in two_layers().graph.initializer}
    weights = {name: x.astype(ml_dtypes.bfloat16) for name, x in weights.items()}
    model = graph(nodes, weights, {"x": ["n", 8]}, {"z": ["n", 3]})
    for seed in range(3):
        graphprune.shrink(model, 0.5, compensate=False, seed=seed)
