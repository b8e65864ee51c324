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
