"""Weights that are stored as integers are solved for, and go back to the integers nearest."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, helper, numpy_helper

import graphprune
from tests.frontends.onnx.exports import graph, normal, run

_RNG = np.random.default_rng(0)


def _steps(weight: np.ndarray, at: int | None, kind: type) -> tuple[np.ndarray, ...]:
    """Integers, scale and zero point of a weight, one for all or one for each index."""
    rest = None if at is None else tuple(d for d in range(weight.ndim) if d != at)
    ends = np.iinfo(kind)
    scale = np.asarray(np.abs(weight).max(rest) / 100, np.float32)
    zero = np.full(scale.shape, 0 if ends.min < 0 else 128, kind)
    shape = [1] * weight.ndim
    shape[0 if at is None else at] = -1
    wide = [x.reshape(shape) if x.ndim else x for x in (scale, zero.astype(np.int64))]
    return (
        np.clip(np.round(weight / wide[0]) + wide[1], ends.min, ends.max).astype(kind),
        scale,
        zero,
    )


def _file(at: int | None, kind: type, convolution: bool) -> ModelProto:
    """Two layers whose hidden channels are mixtures of few, biases stored as integers too."""
    taps = (1, 1) if convolution else ()
    first = _RNG.normal(size=(8, 4)) @ _RNG.normal(size=(4, 24))
    second = _RNG.normal(size=(24, 3))
    weights = [w.T.reshape(*w.T.shape, *taps) if convolution else w for w in (first, second)]
    held: dict[str, np.ndarray] = {}
    nodes = []
    for number, (weight, bias) in enumerate(zip(weights, (24, 3), strict=True)):
        own = at if at is None or not convolution else 1 - at
        steps = _steps(weight, own, kind), _steps(_RNG.normal(size=bias), None, np.int32)
        more = {} if own is None else {"axis": own}
        for name, parts, options in (("w", steps[0], more), ("b", steps[1], {})):
            key = f"{name}{number}"
            held |= dict(zip((f"{key}q", f"{key}s", f"{key}z"), parts, strict=True))
            read = [f"{key}q", f"{key}s", f"{key}z"]
            nodes.append(helper.make_node("DequantizeLinear", read, [key], **options))
    held["b0q"] = held["b0q"] // 50  # a step of so much is finer than any weight's
    if convolution:
        nodes += [
            helper.make_node("Conv", ["x", "w0", "b0"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Conv", ["r", "w1", "b1"], ["y"]),
        ]
        return graph(nodes, held, {"x": ["n", 8, 2, 2]}, {"y": ["n", 3, 2, 2]})
    nodes += [
        helper.make_node("MatMul", ["x", "w0"], ["m"]),
        helper.make_node("Add", ["m", "b0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w1"], ["o"]),
        helper.make_node("Add", ["o", "b1"], ["y"]),
    ]
    return graph(nodes, held, {"x": ["n", 8]}, {"y": ["n", 3]})


@pytest.mark.parametrize("at", [None, 1])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
@pytest.mark.parametrize("convolution", [False, True])
def test_integers_make_up_for_what_goes(at: int | None, kind: type, convolution: bool) -> None:
    model = _file(at, kind, convolution)
    data = normal(128, 8, *((2, 2) if convolution else ()))
    errors = []
    for compensate in (True, False):
        plan = graphprune.plan(
            model, 0.4, data=data, effort="fast", compensate=compensate, seed=0,
            importance="auto" if compensate else "l2",
        )  # fmt: skip
        small = plan.apply()
        assert plan.report is not None and not plan.report.left
        wanted, found = (run(m, x=data)[0] for m in (model, small))
        errors.append(float(np.square(found - wanted).mean() / wanted.var()))
        held = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
        assert held["w1q"].dtype == kind and held["b1q"].dtype == np.int32
    assert errors[0] < 0.25 * errors[1]
