"""Quantized weights count as the numbers that they stand for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

import graphprune
from graphprune.importance.score import score
from graphprune.importance.stored import Stored
from tests.frontends.onnx.exports import graph, normal, run


def _numbers() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "w1q": rng.integers(-128, 128, (8, 16)).astype(np.int8),
        "w1z": rng.integers(-100, 100, 16).astype(np.int8),
        "w1s": rng.uniform(0.001, 0.1, 16).astype(np.float32),
        "w2q": rng.integers(0, 256, (16, 3)).astype(np.uint8),
        "w2z": np.array(131, np.uint8),
        "w2s": np.array(0.02, np.float32),
    }


def two_products(quantized: bool) -> ModelProto:
    """Two products, their weights as bytes or as the numbers that these stand for."""
    held = _numbers()
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    if quantized:
        read = [("w1", {"axis": 1}), ("w2", {})]
        nodes[:0] = [
            helper.make_node("DequantizeLinear", [f"{w}q", f"{w}s", f"{w}z"], [w], **more)
            for w, more in read
        ]
    else:
        held = {
            w: (held[f"{w}q"].astype(np.float32) - held[f"{w}z"].astype(np.float32)) * held[f"{w}s"]
            for w in ("w1", "w2")
        }
    return graph(nodes, held, {"x": ["n", 8]}, {"y": ["n", 3]})


@pytest.mark.parametrize("criterion", ["l1", "l2", "group_norm", "fpgm"])
def test_scores_are_those_of_the_numbers(criterion: str) -> None:
    (found,), (wanted,) = (
        score(graphprune.analyze(two_products(q)), criterion) for q in (True, False)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_weights_stand_for_numbers() -> None:
    deps, held = graphprune.analyze(two_products(True)), _numbers()
    stored = Stored(deps)
    found = stored.numbers(deps.source.weights["w1q"])
    wanted = (held["w1q"].astype(np.float32) - held["w1z"].astype(np.float32)) * held["w1s"]
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)


def test_what_stands_for_zero_is_found() -> None:
    model = two_products(True)
    for tensor in model.graph.initializer:
        if tensor.name == "w2q":
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[[2, 9]] = 131
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w2q"))
    plan = graphprune.plan(model, 2 / 16, "channels", compensate=False)
    assert np.setdiff1d(np.arange(16), plan.kept["w2q"][0]).tolist() == [2, 9]
    x = normal(5, 8)
    np.testing.assert_allclose(run(plan.apply(), x=x)[0], run(model, x=x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transposed", [False, True])
def test_what_meets_activations_are_the_numbers(transposed: bool) -> None:
    """Wanda's products with inputs, of weights that the file makes numbers of, or transposes."""
    found, x = [], normal(64, 8)
    for quantized in (True, False):
        model = two_products(quantized)
        if transposed and not quantized:
            for tensor in model.graph.initializer:
                if tensor.name == "w2":
                    turned = onnx.numpy_helper.to_array(tensor).T.copy()
                    tensor.CopyFrom(onnx.numpy_helper.from_array(turned, "w2t"))
            model.graph.node.insert(0, helper.make_node("Transpose", ["w2t"], ["w2"]))
        plan = graphprune.plan(
            model, 0.5, "channels", importance="wanda", data=x, compensate=False, verify=False
        )
        found.append([group.keep for group in plan.groups])
    np.testing.assert_array_equal(*found)
