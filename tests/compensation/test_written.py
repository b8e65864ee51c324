"""Weights that the graph computes from stored ones make up for what goes, as others do."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import weight_norm as hooked

import graphprune
from tests.frontends.onnx.exports import graph, normal, run

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    FORMS: list[Callable[..., nn.Module]] = [parametrizations.weight_norm, hooked]


def _off(found: Any, wanted: Any) -> float:
    """Relative squared error."""
    return float(((found - wanted) ** 2).mean() / wanted.var())


class _Normed(nn.Module):
    """Layers whose hidden channels are mixtures of few, their weights as lengths and directions."""

    def __init__(self, form: Callable[..., nn.Module], dim: int | None) -> None:
        super().__init__()
        layers = [
            nn.Conv1d(4, 24, 3, padding=1), nn.Conv1d(24, 24, 1), nn.ConvTranspose1d(24, 16, 4, 2),
            nn.Conv1d(16, 3, 1),
        ]  # fmt: skip
        with torch.no_grad():
            first = layers[0].weight
            first.copy_((torch.randn(24, 3) @ torch.randn(3, 12)).view_as(first) / 3)
        self.layers = nn.ModuleList(form(layer, "weight", dim) for layer in layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = nn.functional.leaky_relu(layer(x), 0.2)
        out: torch.Tensor = self.layers[-1](x)
        return out


class _Equal(nn.Module):
    """Layers whose weights are multiplied by a number, or by others that are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 24)
        self.second, self.third = (nn.Parameter(torch.randn(n, 24)) for n in (16, 5))
        self.bias, self.scale = nn.Parameter(torch.randn(16)), nn.Parameter(torch.rand(5, 1) + 0.5)
        self.last = nn.Parameter(torch.randn(5, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        hidden = nn.functional.linear(x, self.second * 0.2, self.bias * 0.5).relu()
        found = nn.functional.linear(hidden, self.last / 4) + nn.functional.linear(
            x, self.scale * self.third
        )
        return found


def test_scaled_weights_are_solved_for() -> None:
    torch.manual_seed(0)
    model, x = _Equal().eval(), torch.randn(256, 3)
    options: dict[str, Any] = {"example_inputs": x[:2], "data": [x[:192]], "effort": "fast"}
    plan = graphprune.plan(model, 0.4, of="channels", **options)
    small = plan.apply()
    plain = graphprune.plan(model, 0.4, of="channels", compensate=False, **options).apply()
    assert plan.report.left == {} and type(small) is _Equal
    assert torch.equal(small.scale, model.scale)
    with torch.no_grad():
        errors = [_off(net(x[192:]), model(x[192:])) for net in (small, plain)]
    assert errors[0] < 0.25 * errors[1]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dim", [0, 1, None])
def test_normed_weights_are_solved_for(form: Callable[..., nn.Module], dim: int | None) -> None:
    torch.manual_seed(0)
    model, x = _Normed(form, dim).eval(), torch.randn(128, 4, 16)
    options: dict[str, Any] = {"example_inputs": x[:2], "data": [x[:96]], "effort": "fast"}
    plan = graphprune.plan(model, 0.4, of="channels", **options)
    small = plan.apply()
    plain = graphprune.plan(model, 0.4, of="channels", compensate=False, **options).apply()
    assert plan.report.left == {}
    assert plan.report.verification.exact
    with torch.no_grad():
        errors = [_off(net(x[96:]), model(x[96:])) for net in (small, plain)]
    assert errors[0] < 0.25 * errors[1]
    assert type(small.layers[0]) is type(model.layers[0])


def test_what_a_direction_lacks_has_no_length() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16), nn.Tanh(), parametrizations.weight_norm(nn.Linear(16, 4))]
    model, x = nn.Sequential(*layers).eval(), torch.randn(64, 6)
    with torch.no_grad():
        model[2].parametrizations.weight.original0[1] = 0.0  # an output that is its bias
    small = graphprune.plan(model, 0.3, data=[x], effort="fast").apply()
    with torch.no_grad():
        assert torch.isfinite(small(x)).all()
        assert torch.allclose(small(x)[:, 1], model(x)[:, 1], atol=1e-6)


def test_a_direction_that_several_layers_share_stays() -> None:
    torch.manual_seed(0)

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 4)
            self.v = nn.Parameter(torch.randn(16, 16))
            self.g = nn.Parameter(torch.rand(2, 16, 1) + 0.5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(self.first(x))
            for g in self.g:
                x = torch.tanh(nn.functional.linear(x, torch._weight_norm(self.v, g, 0)))
            out: torch.Tensor = self.last(x)
            return out

    model, x = Shared().eval(), torch.randn(64, 6)
    plan = graphprune.plan(model, 0.3, data=[x], effort="fast")
    plan.apply()
    assert "its weight is computed" in plan.report.left.values()
    assert plan.report.verification.exact


def _integers() -> onnx.ModelProto:
    """Five layers in a row, whose weights are integers of one scale."""
    rng = np.random.default_rng(0)
    widths = (8, 24, 24, 24, 24, 4)
    held: dict[str, np.ndarray] = {}
    nodes, x = [], "x"
    for at, (n, m) in enumerate(itertools.pairwise(widths)):
        weight = (
            rng.normal(size=(n, m)) if at else rng.normal(size=(n, 3)) @ rng.normal(size=(3, m))
        )
        scale = np.float32(np.abs(weight).max() / 127)
        held |= {f"w{at}q": np.round(weight / scale).astype(np.int8), f"w{at}s": scale}
        nodes.append(helper.make_node("DequantizeLinear", [f"w{at}q", f"w{at}s"], [f"w{at}"]))
        nodes.append(helper.make_node("MatMul", [x, f"w{at}"], [f"m{at}"]))
        x = "y" if at == len(widths) - 2 else f"h{at}"
        held[f"b{at}"] = rng.normal(size=m).astype(np.float32)
        nodes.append(helper.make_node("Add", [f"m{at}", f"b{at}"], [x if x == "y" else f"a{at}"]))
        if x != "y":
            nodes.append(helper.make_node("LeakyRelu", [f"a{at}"], [x], alpha=0.3))
    nodes.sort(key=lambda node: node.op_type != "DequantizeLinear")  # weights before all else
    return graph(nodes, held, {"x": ["n", 8]}, {"y": ["n", 4]})


def test_later_layers_read_what_integers_before_them_were_solved_to() -> None:
    model, data = _integers(), normal(256, 8)
    options: dict[str, Any] = {"data": data, "effort": "fast", "importance": "auto"}
    small = graphprune.plan(model, 0.4, of="channels", **options).apply()
    wanted, found = (run(m, x=data)[0] for m in (model, small))
    assert _off(found, wanted) < 0.25, "with what they were cut to, the errors add up to 2.4"


@pytest.mark.parametrize("integers", [False, True])
def test_a_matrix_that_the_graph_transposes(integers: bool) -> None:
    """Integers are transposed once they are numbers."""
    hidden = normal(6, 4) @ normal(4, 24)  # mixtures of four
    held = {"w1": hidden, "b1": normal(24), "w2": normal(3, 24), "s": np.float32(0.03)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Transpose", ["w2f"], ["w2t"], perm=[1, 0]),
        helper.make_node("MatMul", ["a", "w2t"], ["y"]),
    ]
    if integers:
        held["w2"] = np.round(held["w2"] / held["s"]).astype(np.int8)
        nodes.insert(0, helper.make_node("DequantizeLinear", ["w2", "s"], ["w2f"]))
    else:
        nodes.insert(0, helper.make_node("Identity", ["w2"], ["w2f"]))
    model = graph(nodes, held, {"x": ["n", 6]}, {"y": ["n", 3]})
    data = normal(96, 6)
    plan = graphprune.plan(model, 0.5, of="channels", data=data, effort="fast")
    small = plan.apply()
    assert plan.report is not None and not plan.report.left
    wanted, found = run(model, x=data)[0], run(small, x=data)[0]
    assert np.square(found - wanted).sum() < 0.01 * np.square(wanted - wanted.mean(0)).sum()


def _net(second: list[onnx.NodeProto], held: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Two products; the weight of the second, and its bias, are what nodes make of stored ones."""
    weights = {"w1": np.einsum("il,lo->io", normal(6, 4), normal(4, 24)), "w3": normal(12, 3)}
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        *second,
        helper.make_node("Gemm", ["a", "w2", "b2"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w3"], ["y"]),
    ]
    return graph(nodes, weights | held, {"x": ["n", 6]}, {"y": ["n", 3]}, opset=13)


def _in_half(w: np.ndarray, b: np.ndarray) -> onnx.ModelProto:
    """As files hold weights that are of half the size on disk."""
    held = {"h": w.astype(np.float16), "bh": b.astype(np.float16)}
    cast = [helper.make_node("Cast", [v], [o], to=1) for v, o in (("h", "w2"), ("bh", "b2"))]
    return _net(cast, held)


def _in_bytes(w: np.ndarray, b: np.ndarray) -> onnx.ModelProto:
    """Integers, made floats and multiplied by a step for each output."""
    step = (abs(w).max(0, keepdims=True) / 127).astype(np.float32)
    held = {"q": np.round(w / step).astype(np.int8), "s": step, "b2": b}
    nodes = [
        helper.make_node("Cast", ["q"], ["f"], to=1),
        helper.make_node("Mul", ["f", "s"], ["w2"]),
    ]
    return _net(nodes, held)


def _equalised(w: np.ndarray, b: np.ndarray) -> onnx.ModelProto:
    """Weights and biases times numbers that equalise learning rates (StyleGAN)."""
    held = {"v": 4 * w, "g": np.float32(0.25), "bv": b / 3, "bg": np.full(12, 3, np.float32)}
    nodes = [
        helper.make_node("Mul", [v, g], [o]) for v, g, o in (("v", "g", "w2"), ("bg", "bv", "b2"))
    ]
    return _net(nodes, held)


@pytest.mark.parametrize("made", [_in_half, _in_bytes, _equalised])
def test_weights_of_another_type_or_times_factors(made: Any) -> None:
    model, x = made(normal(24, 12), normal(12)), normal(128, 6)
    plan = graphprune.plan(model, ratios={"w1": 0.5}, data={"x": x}, effort="fast")
    small = plan.apply()
    assert plan.report is not None and not plan.report.left
    assert "without a constant" not in str(plan.report)
    assert _off(run(small, x=x)[0], run(model, x=x)[0]) < 1e-3


def test_integers_that_are_transposed_before_they_are_multiplied() -> None:
    w = normal(12, 24)
    step = np.float32(abs(w).max() / 127)
    held = {
        "w1": np.einsum("il,lo->io", normal(6, 4), normal(4, 24)), "w3": normal(12, 3),
        "q": np.round(w / step).astype(np.int8), "s": step, "z": np.int8(0),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("DynamicQuantizeLinear", ["a"], ["aq", "as", "az"]),
        helper.make_node("Transpose", ["q"], ["qt"], perm=[1, 0]),
        helper.make_node("MatMulInteger", ["aq", "qt", "az", "z"], ["m"]),
        helper.make_node("Cast", ["m"], ["f"], to=1),
        helper.make_node("Mul", ["as", "s"], ["steps"]),
        helper.make_node("Mul", ["f", "steps"], ["c"]),
        helper.make_node("MatMul", ["c", "w3"], ["y"]),
    ]
    model, x = graph(nodes, held, {"x": ["n", 6]}, {"y": ["n", 3]}, opset=13), normal(128, 6)
    plan = graphprune.plan(model, ratios={"w1": 0.5}, data={"x": x}, effort="fast")
    small = plan.apply()
    assert plan.report is not None and not plan.report.left
    assert _off(run(small, x=x)[0], run(model, x=x)[0]) < 0.01


def test_integers_that_become_numbers_twice() -> None:
    """Both uses are solved for together, as of a weight that is stored as it is."""
    w = normal(16, 16) / 2
    step = np.float32(abs(w).max() / 127)
    held = {
        "w1": np.einsum("il,lo->io", normal(6, 4), normal(4, 16)), "s": step,
        "q": np.round(w / step).astype(np.int8), "w3": normal(16, 3),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["one"]),
        helper.make_node("MatMul", ["a", "one"], ["b"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["two"]),
        helper.make_node("MatMul", ["b", "two"], ["c"]),
        helper.make_node("MatMul", ["c", "w3"], ["y"]),
    ]
    model, x = graph(nodes, held, {"x": ["n", 6]}, {"y": ["n", 3]}, opset=13), normal(128, 6)
    plan = graphprune.plan(model, 0.5, of="channels", data={"x": x}, effort="fast")
    small = plan.apply()
    assert plan.report is not None and not plan.report.left
    assert _off(run(small, x=x)[0], run(model, x=x)[0]) < 0.02
