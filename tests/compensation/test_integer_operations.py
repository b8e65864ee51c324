"""Operations that multiply integers are solved for as well as the floats that they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

import graphprune
from graphprune.frontends.torch.saving import silent
from tests.frontends.onnx.exports import Array, graph, normal, run

_HIDDEN, _LATENT = 24, 4


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, data: Array) -> None:
        self._items = iter([{"x": data}])

    def get_next(self) -> Any:
        return next(self._items, None)


def _mixtures(inputs: int) -> Array:
    """A matrix `inputs x hidden` of few columns that are independent."""
    return np.einsum("il,lo->io", normal(inputs, _LATENT), normal(_LATENT, _HIDDEN))


def _convolutions() -> tuple[ModelProto, Array]:
    first = _mixtures(3).T[..., None, None]
    weights = {"w1": first, "b1": normal(_HIDDEN), "w2": normal(4, _HIDDEN, 3, 3), "b2": normal(4)}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Conv", ["a", "w2", "b2"], ["y"]),
    ]
    sizes = {"x": ["n", 3, 6, 6]}, {"y": ["n", 4, 4, 4]}
    return graph(nodes, weights, *sizes, opset=13), normal(64, 3, 6, 6)


def _gemms() -> tuple[ModelProto, Array]:
    weights = {"w1": _mixtures(6), "b1": normal(_HIDDEN), "w2": normal(3, _HIDDEN), "b2": normal(3)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["y"], transB=1),
    ]
    return graph(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 3]}, opset=13), normal(128, 6)


def _products() -> tuple[ModelProto, Array]:
    weights = {"w1": _mixtures(6), "w2": normal(_HIDDEN, 3), "b2": normal(3)}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["c"]),
        helper.make_node("Add", ["c", "b2"], ["y"]),
    ]
    return graph(nodes, weights, {"x": ["n", 5, 6]}, {"y": ["n", 5, 3]}, opset=13), normal(64, 5, 6)


def _recurrent() -> tuple[ModelProto, Array]:
    units = 5
    weights = {
        "w1": _mixtures(6), "w": 0.3 * normal(1, 4 * units, _HIDDEN),
        "r": 0.3 * normal(1, 4 * units, units), "b": 0.1 * normal(1, 8 * units),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("LSTM", ["a", "w", "r", "b"], ["y"], hidden_size=units),
    ]
    sizes = {"x": [7, "n", 6]}, {"y": [7, 1, "n", units]}
    return graph(nodes, weights, *sizes, opset=13), normal(7, 64, 6)


def _lost(model: ModelProto, data: Array, **options: Any) -> float:
    """What half of the channels take with them of the variation of the results."""
    plan = graphprune.plan(
        model, 0.5, of="channels", data={"x": data}, effort="fast", **options
    )  # fmt: skip
    small = plan.apply()
    assert plan.report is not None and not plan.report.left
    wanted, found = run(model, x=data)[0], run(small, x=data)[0]
    return float(np.square(found - wanted).sum() / np.square(wanted - wanted.mean(0)).sum())


# Kernels of processors without such instructions have no room for sums of products of eight bits.
_SEVEN = {"reduce_range": True}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("how", [QuantFormat.QOperator, QuantFormat.QDQ])
@pytest.mark.parametrize("made", [_convolutions, _gemms, _products])
def test_static(tmp_path: Path, made: Any, how: QuantFormat, per_channel: bool) -> None:
    """Half of the hidden channels are mixtures of the others: weights grow, and with them steps."""
    model, data = made()
    before, after = tmp_path / "float.onnx", tmp_path / "bytes.onnx"
    onnx.save(model, before)
    with silent():
        quantize_static(
            before, after, _Reader(data), quant_format=how, per_channel=per_channel, **_SEVEN
        )
    assert _lost(onnx.load(after), data) < 0.02


_KINDS = (QuantType.QInt8, QuantType.QUInt8)
_DYNAMIC = [(made, kind) for made in (_gemms, _products, _recurrent) for kind in _KINDS]


@pytest.mark.parametrize("made, kind", [*_DYNAMIC, (_convolutions, QuantType.QUInt8)])
def test_dynamic(tmp_path: Path, made: Any, kind: QuantType) -> None:
    """The steps of what is read are computed; those of weights stand in operations behind."""
    model, data = made()
    before, after = tmp_path / "float.onnx", tmp_path / "bytes.onnx"
    onnx.save(model, before)
    with silent():
        quantize_dynamic(before, after, weight_type=kind, **_SEVEN)
    assert _lost(onnx.load(after), data) < 0.02


def test_a_bias_of_a_computed_step_stays_as_it_is() -> None:
    """What is read has another step at each run, and so have the bias's integers."""
    held = {
        "w1": normal(6, _HIDDEN), "q": (20 * normal(_HIDDEN, 3)).astype(np.int8),
        "s": np.float32(0.05), "z": np.int8(0), "c": np.arange(3, dtype=np.int32),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("DynamicQuantizeLinear", ["a"], ["aq", "as", "az"]),
        helper.make_node(
            "QGemm", ["aq", "as", "az", "q", "s", "z", "c"], ["y"], domain="com.microsoft"
        ),
    ]
    model = graph(nodes, held, {"x": ["n", 6]}, {"y": ["n", 3]}, opset=13)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    small = graphprune.shrink(model, 0.3, data=normal(32, 6), effort="fast")
    kept = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
    np.testing.assert_array_equal(kept["c"], held["c"])
    assert kept["s"] == held["s"] and kept["q"].dtype == np.int8


def test_a_step_of_zero_stays(tmp_path: Path) -> None:
    """As some quantizers write for outputs whose weights are all zero."""
    model, data = _gemms()
    before, after = tmp_path / "float.onnx", tmp_path / "bytes.onnx"
    onnx.save(model, before)
    with silent():
        quantize_static(
            before, after, _Reader(data), quant_format=QuantFormat.QDQ, per_channel=True
        )
    model = onnx.load(after)
    for tensor in model.graph.initializer:
        if tensor.name in ("w2_scale", "b2_quantized_scale"):
            held = numpy_helper.to_array(tensor).copy()
            held[0] = 0
            tensor.CopyFrom(numpy_helper.from_array(held, tensor.name))
    small = graphprune.shrink(model, 0.5, of="channels", data=data, effort="fast")
    scales = [numpy_helper.to_array(t) for t in small.graph.initializer if "scale" in t.name]
    assert all(np.isfinite(scale).all() for scale in scales)


@pytest.mark.parametrize("alpha, beta", [(0.5, 1.0), (2.0, -3.0), (1.5, 0.0)])
def test_factors_of_a_product_and_of_its_bias(alpha: float, beta: float) -> None:
    model, data = _gemms()
    model.graph.node[1].attribute.extend(
        [helper.make_attribute("alpha", alpha), helper.make_attribute("beta", beta)]
    )
    assert _lost(model, data, importance="l2") < 1e-4


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("shared", [False, True])
def test_numbers_that_are_rounded_to_integers_and_back(axis: int | None, shared: bool) -> None:
    """As files of training that knows of quantization hold weights; both take one new step."""
    model, data = _gemms()
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    most = np.abs(held["w2"]).max(None if axis is None else 1)
    steps = {"s": np.float32(most / 127), "z": np.zeros(most.shape, np.int8)}
    other = steps if shared else {"s2": steps["s"].copy(), "z2": steps["z"].copy()}
    more = {} if axis is None else {"axis": axis}
    node = model.graph.node[1]
    node.input[1] = "wd"
    nodes = [
        model.graph.node[0],
        helper.make_node("QuantizeLinear", ["w2", "s", "z"], ["wq"], **more),
        helper.make_node("DequantizeLinear", ["wq", *other], ["wd"], **more),
        node,
    ]
    sizes = {"x": ["n", 6]}, {"y": ["n", 3]}
    model = graph(nodes, held | steps | other, *sizes, opset=13)
    assert _lost(model, data) < 0.01


@pytest.mark.parametrize("kind", ["int4", "uint4", "int8"])
@pytest.mark.parametrize("pointed", [False, True])
def test_integers_in_blocks_along_what_is_read(kind: str, pointed: bool) -> None:
    """Whole blocks go, and what stays makes up for them, on steps of its own for each block."""
    block, blocks, hidden = 16, 6, 96
    least, most = (-128, 127) if kind == "int8" else (-8, 7) if kind == "int4" else (0, 15)
    number = np.int8 if kind == "int8" else getattr(ml_dtypes, kind)
    zero = np.full((blocks, 40), 8 if kind == "uint4" else 0)
    w2 = normal(hidden, 40).reshape(blocks, block, 40)
    step = abs(w2).max(1) / (most - zero.max())
    q = np.clip(np.round(w2 / step[:, None]) + zero[:, None], least, most).reshape(hidden, 40)
    held = {
        "w1": np.einsum("il,lo->io", normal(6, _LATENT), normal(_LATENT, hidden)),
        "q": q.astype(number), "s": step.astype(np.float32),
    }  # fmt: skip
    if pointed or kind == "uint4":
        held["z"] = zero.astype(number)
    given = ["q", "s", "z"] if "z" in held else ["q", "s"]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("DequantizeLinear", given, ["w2"], axis=0, block_size=block),
        helper.make_node("MatMul", ["a", "w2"], ["y"]),
    ]
    model, data = graph(nodes, held, {"x": ["n", 6]}, {"y": ["n", 40]}, opset=21), normal(128, 6)
    assert _lost(model, data) < (0.01 if kind == "int8" else 0.1)
    small = graphprune.shrink(model, 0.5, of="channels", data=data, effort="fast")
    sizes = {tensor.name: tuple(tensor.dims) for tensor in small.graph.initializer}
    assert sizes["q"] == (48, 40) and sizes["s"] == (3, 40) and sizes["w1"] == (6, 48)


@pytest.mark.parametrize("added", ["one number", "a row of ones", "what is computed"])
def test_products_to_which_something_else_is_added(added: str) -> None:
    """The product is solved for as it would be without; it holds no constant of its own."""
    weights = {"w1": _mixtures(6), "b1": normal(_HIDDEN), "w2": normal(_HIDDEN, 3)}
    more = {"one number": np.float32(0.3), "a row of ones": np.array([[0.2]], np.float32)}
    weights["c"] = more.get(added, normal(6, 3))
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "c"], ["y"]),
    ]
    if added not in more:
        nodes.insert(0, helper.make_node("MatMul", ["x", "c"], ["d"]))
        nodes[-1].input[2] = "d"
    model = graph(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 3]}, opset=13)
    assert _lost(model, normal(128, 6)) < 1e-3
