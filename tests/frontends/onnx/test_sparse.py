"""Weights that a file stores by the places of their numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graphprune
from tests.frontends.onnx.exports import Array, graph, normal, run


def _sparse(array: Array, flat: bool) -> onnx.SparseTensorProto:
    at = np.flatnonzero(array) if flat else np.argwhere(array)
    values = numpy_helper.from_array(array[array != 0], "w2")
    return helper.make_sparse_tensor(
        values, numpy_helper.from_array(at.astype(np.int64), "places"), array.shape
    )


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_sparse_weights_are_read_and_cut(flat: bool, constant: bool) -> None:
    second = normal(24, 20)
    second[abs(second) < 0.5] = 0
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w3"], ["y"]),
    ]
    sizes = {"x": ["n", 6]}, {"y": ["n", 3]}
    model = graph(nodes, {"w1": normal(6, 24), "w3": normal(20, 3)}, *sizes, opset=17)
    if constant:
        made = helper.make_node("Constant", [], ["w2"], sparse_value=_sparse(second, flat))
        model.graph.node.insert(0, made)
    else:
        model.graph.sparse_initializer.append(_sparse(second, flat))
    before, x = model.SerializeToString(), normal(48, 6)
    plan = graphprune.plan(model, 0.4, data=x, effort="fast")
    small = plan.apply()
    assert plan.report is not None and not plan.report.left and plan.report.params[0] == 684
    assert not small.graph.sparse_initializer and model.SerializeToString() == before
    onnx.checker.check_model(small, full_check=True)
    assert run(small, x=x)[0].shape == (48, 3)


def test_places_beyond_a_sparse_weight_are_refused() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = graph(nodes, {}, {"x": ["n", 6]}, {"y": ["n", 3]}, opset=17)
    held = _sparse(normal(6, 3), flat=True)
    held.values.name, held.dims[0] = "w", 2
    model.graph.sparse_initializer.append(held)
    with pytest.raises(graphprune.LiftError, match="w: places"):
        graphprune.shrink(model, 0.5)
