"""Operations of ONNX domains of one's own: followed, proven, scored and compensated."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import ModelProto, TensorProto, helper

import graphprune
from graphprune.core.errors import GraphPruneError, LiftError, VerifyError
from graphprune.frontends.onnx.whole import run_model
from graphprune.rules import registry
from tests.frontends.onnx.exports import Array, graph, normal

SIZES: list[int | str] = ["n", 5]
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_rules() -> Iterator[None]:
    """Rules that a test registers are gone after it."""
    before = dict(registry._RULES)
    yield
    registry._RULES.clear()
    registry._RULES.update(before)


def scaled(x: torch.Tensor, gain: torch.Tensor, power: int = 1) -> torch.Tensor:
    return F.gelu(x) * gain**power


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return x @ weight.T + bias


def _scaled_rule(run: Callable[..., Any] | None) -> None:
    graphprune.axis_rule("my.ops::ScaledGelu", run=run)(lambda op: "n c, c -> n c")


def _linear_rule(run: Callable[..., Any] | None) -> None:
    graphprune.axis_rule("my.ops::Dense", run=run)(lambda op: "n i, o i, o -> n o")


def _finished(model: ModelProto, stated: dict[str, Any]) -> ModelProto:
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    for name, shape in stated.items():
        item = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        model.graph.value_info.append(item)
    return model


def gated(samples: int | str, stated: bool) -> ModelProto:
    """A product, an activation of one's own, a product."""
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("ScaledGelu", ["h", "g"], ["k"], domain="my.ops", name="mine", power=2),
        helper.make_node("MatMul", ["k", "b"], ["y"]),
    ]
    weights = {"a": normal(8, 32), "g": normal(32), "b": normal(32, 4)}
    model = graph(nodes, weights, {"x": [samples, 8]}, {"y": [samples, 4]})
    return _finished(model, {"k": [samples, 32]} if stated else {})


def dense() -> ModelProto:
    """Two linear operations of one's own with a ReLU between them."""
    nodes = [
        helper.make_node("Dense", ["x", "a", "p"], ["h"], domain="my.ops", name="first"),
        helper.make_node("Relu", ["h"], ["k"]),
        helper.make_node("Dense", ["k", "b", "q"], ["y"], domain="my.ops", name="second"),
    ]
    weights = {"a": normal(32, 8), "p": normal(32), "b": normal(4, 32), "q": normal(4)}
    return _finished(graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 4]}), {})


def as_gemm(model: ModelProto) -> ModelProto:
    """The same model with operations that ONNX knows."""
    out = ModelProto()
    out.CopyFrom(model)
    for node in out.graph.node:
        if node.domain:
            node.op_type, node.domain = "Gemm", ""
            node.attribute.append(helper.make_attribute("transB", 1))
    return out


def error(model: ModelProto, small: ModelProto, x: Array) -> float:
    (a,), (b,) = run_model(model, {"x": x}), run_model(small, {"x": x})
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


@pytest.mark.parametrize("samples", SIZES)
@pytest.mark.parametrize(("stated", "runs"), [(True, False), (False, True), (True, True)])
def test_an_operation_of_its_own_domain_is_followed(
    samples: int | str, stated: bool, runs: bool
) -> None:
    _scaled_rule(scaled if runs else None)
    model = gated(samples, stated)
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    assert [list(item.dims) for item in small.graph.initializer] == [[8, 16], [16], [16, 4]]
    assert plan.report is not None and plan.report.verification is not None
    told = [line for line in plan.report.warnings if "took its results for granted" in line]
    assert len(told) == (not runs)
    proof = plan.report.verification
    assert proof.exact == runs
    assert proof.granted == ([] if runs else ["my.ops::ScaledGelu at mine"])
    taken = "the results of my.ops::ScaledGelu at mine were taken for granted"
    assert (taken in " ".join(str(plan.report).split())) == (not runs)
    assert all("my.ops::ScaledGelu at mine" in line for line in told)
    if stated:
        (info,) = small.graph.value_info
        assert info.type.tensor_type.shape.dim[1].dim_value == 16
    if runs:  # removal equals masking of the gate: what goes is multiplied by nothing
        masked = ModelProto()
        masked.CopyFrom(model)
        (keep,) = [group.keep for group in plan.groups if group.keep is not None]
        array = onnx.numpy_helper.to_array(masked.graph.initializer[2]).copy()
        array[np.setdiff1d(np.arange(32), keep)] = 0
        masked.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(array, "b"))
        assert error(masked, small, normal(5, 8)) < 1e-5


@pytest.mark.parametrize("samples", SIZES)
def test_nothing_tells_the_type_of_a_result(samples: int | str) -> None:
    _scaled_rule(None)
    with pytest.raises(LiftError) as caught:
        graphprune.analyze(gated(samples, stated=False))
    for part in ("ScaledGelu mine", "my.ops", "value_info", "run="):
        assert part in str(caught.value)


def test_a_symbol_of_a_value_in_between_is_learned() -> None:
    """`m` is no input's dimension: what the file states of a known value settles it."""
    _scaled_rule(None)
    model = gated("n", stated=False)
    model = _finished(model, {"h": ["m", 32], "k": ["m", 32]})
    assert [group.size for group in graphprune.analyze(model).groups] == [32]


def test_an_evaluation_that_fails_is_named() -> None:
    def wrong(x: torch.Tensor, gain: torch.Tensor, power: int) -> torch.Tensor:
        raise KeyError("power")

    _scaled_rule(wrong)
    with pytest.raises(LiftError, match=r"run= of my\.ops::ScaledGelu at mine fails on the shapes"):
        graphprune.analyze(gated(5, stated=False))
    with pytest.raises(VerifyError, match=r"run= of my\.ops::ScaledGelu at mine fails"):
        graphprune.shrink(gated(5, stated=True), 0.5, compensate=False)


def test_an_evaluation_that_gives_no_tensor_is_named() -> None:
    _scaled_rule(lambda x, gain, power: 3.0)
    with pytest.raises(LiftError, match="must give 1 tensors, not float"):
        graphprune.analyze(gated(5, stated=False))


def test_a_wrong_rule_is_found() -> None:
    """The evaluation mixes channels, which the rule denies."""
    _scaled_rule(lambda x, gain, power: x.flip(-1) * gain)
    with pytest.raises(VerifyError, match=r"removal differs from masking at .*mine"):
        graphprune.shrink(gated("n", stated=False), 0.5, compensate=False)


def test_an_operation_without_a_rule_costs_only_prunability() -> None:
    deps = graphprune.analyze(gated("n", stated=True))
    assert deps.groups == []
    assert list(deps.unknown) == ["my.ops::ScaledGelu"]


@pytest.mark.parametrize("criterion", ["l2", "wanda", "activation", "obs", "auto"])
def test_it_is_scored_like_a_built_in_operation(criterion: str) -> None:
    _linear_rule(linear)
    data = normal(256, 8)
    kept = []
    for model in (dense(), as_gemm(dense())):
        plan = graphprune.plan(model, 0.5, importance=criterion, data=data, compensate=True)
        kept.append([group.keep for group in plan.groups if group.keep is not None])
    assert np.array_equal(*kept)


def test_it_is_compensated_like_a_built_in_operation() -> None:
    _linear_rule(linear)
    x = (RNG.standard_normal((512, 3)) @ RNG.standard_normal((3, 8))).astype(np.float32)
    errors = []
    for model in (dense(), as_gemm(dense())):
        plain = graphprune.shrink(model, 0.4, compensate=False)
        plan = graphprune.plan(model, 0.4, data=x)
        assert plan.report is not None and plan.report.left == {}
        errors.append(error(model, plan.apply(), x))
        assert errors[-1] < 0.5 * error(model, plain, x)
    assert errors[0] == pytest.approx(errors[1], rel=0.05)


def test_without_an_evaluation_statistics_are_an_error_that_names_it() -> None:
    _scaled_rule(None)
    for options in ({"importance": "wanda"}, {"compensate": True}):
        with pytest.raises(GraphPruneError, match=r"nothing here runs my\.ops::ScaledGelu at mine"):
            graphprune.plan(gated("n", stated=True), 0.5, data=normal(64, 8), **options)
