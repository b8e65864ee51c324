"""Files of integers, as ONNX Runtime writes them, are compacted and shrunk like those of floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

import graphprune
from graphprune.frontends.torch.saving import silent
from tests.frontends.onnx.exports import graph, normal, run


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, data: np.ndarray) -> None:
        self._items = iter([{"x": data}])

    def get_next(self) -> Any:
        return next(self._items, None)


def _quantized(tmp_path: Path, how: QuantFormat, per_channel: bool) -> ModelProto:
    """Two convolutions, whose hidden channels are mixtures of few, with biases."""
    hidden = np.einsum("oj,ji->oi", normal(24, 4), normal(4, 3))[..., None, None]
    weights = {"w1": hidden, "b1": normal(24), "w2": normal(4, 24, 3, 3), "b2": normal(4)}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2", "b2"], ["y"], pads=[1] * 4),
    ]
    sizes = {"x": ["n", 3, 8, 8]}, {"y": ["n", 4, 8, 8]}
    before, after = tmp_path / "float.onnx", tmp_path / "bytes.onnx"
    onnx.save(graph(nodes, weights, *sizes, opset=13), before)
    with silent():
        quantize_static(
            before, after, _Reader(normal(16, 3, 8, 8)), quant_format=how, per_channel=per_channel
        )
    return onnx.load(after)


@pytest.mark.parametrize("how", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_compact_leaves_integers_with_their_scales(tmp_path: Path, how: QuantFormat) -> None:
    model = _quantized(tmp_path, how, per_channel=True)
    small = graphprune.compact(model)
    data = normal(3, 3, 8, 8)
    np.testing.assert_array_equal(run(model, x=data)[0], run(small, x=data)[0])
    kinds = [[node.op_type for node in m.graph.node] for m in (model, small)]
    assert kinds[0].count("DequantizeLinear") == kinds[1].count("DequantizeLinear")


@pytest.mark.parametrize("how", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_biases_of_integers_count_and_hold_constants(tmp_path: Path, how: QuantFormat) -> None:
    model = _quantized(tmp_path, how, per_channel=False)
    data = normal(48, 3, 8, 8)
    plan = graphprune.plan(model, 0.4, data=data, effort="fast")
    small = plan.apply()
    assert plan.report is not None
    assert plan.report.params[0] == 24 * 3 + 24 + 4 * 24 * 9 + 4
    if how is QuantFormat.QDQ:
        assert "without a constant" not in str(plan.report)
        held = [
            numpy_helper.to_array(t)
            for m in (model, small)
            for t in m.graph.initializer
            if t.name == "b2_quantized"
        ]
        assert held[0].dtype == held[1].dtype == np.int32 and (held[0] != held[1]).any()


@pytest.mark.parametrize("how", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_scales_and_zero_points_do_not_count(tmp_path: Path, how: QuantFormat) -> None:
    """A file with a scale for each channel has the parameters of the floats that it was."""
    plan = graphprune.plan(_quantized(tmp_path, how, per_channel=True), 0.4, compensate=False)
    assert plan.report is not None
    assert plan.report.params[0] == 24 * 3 + 24 + 4 * 24 * 9 + 4


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_matrix_of_integers_is_solved_for_with_its_bias(tmp_path: Path, transposed: int) -> None:
    """`Gemm`, whose operands are both computed there: which of them is the weight is known."""
    hidden = np.einsum("ij,jo->io", normal(6, 4), normal(4, 24))  # mixtures of four
    last = normal(3, 24) if transposed else normal(24, 3)
    weights = {"w1": hidden, "b1": normal(24), "w2": last, "b2": normal(3)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["y"], transB=transposed),
    ]
    before, after = tmp_path / "float.onnx", tmp_path / "bytes.onnx"
    onnx.save(graph(nodes, weights, {"x": ["n", 6]}, {"y": ["n", 3]}, opset=13), before)
    with silent():  # of seven bits, for which the kernels of all processors have room
        quantize_static(
            before, after, _Reader(normal(64, 6)), quant_format=QuantFormat.QDQ, reduce_range=True
        )
    plan = graphprune.plan(onnx.load(after), 0.5, of="channels", data=normal(96, 6), effort="fast")
    small, unseen = plan.apply(), normal(64, 6)
    assert plan.report is not None and not plan.report.left
    wanted, found = run(onnx.load(after), x=unseen)[0], run(small, x=unseen)[0]
    assert np.square(found - wanted).sum() < 0.02 * np.square(wanted - wanted.mean(0)).sum()
