"""A mean over channels that go: divided by as many as before, or a statistic taken anew."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import graphprune


class _Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.b, self.attention = nn.Conv2d(1, 4, 3), nn.Conv2d(2, 1, 3, padding=1)
        self.head, self.number = nn.Conv2d(16, 4, 1), nn.Linear(1, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.a(x)).relu()
        match self.kind:
            case "a layer reads it":
                return self.b(y.mean(1, keepdim=True).relu())
            case "a norm makes it":
                return y.mean(1).tanh()
            case "beside another channel":
                pooled = torch.cat([y.mean(1, keepdim=True), y.sum(1, keepdim=True)], 1)
                return self.head(y * self.attention(pooled).sigmoid())
            case "of all":
                return self.number(y.mean((1, 2, 3)).unsqueeze(1))
            case "nothing can hold it":
                return self.head(y) * (y * y).mean(1, keepdim=True).exp()
            case "centred":
                return self.head(y - y.mean(1, keepdim=True))
            case "root mean square":
                return self.head(y * torch.rsqrt(y.pow(2).mean(1, keepdim=True) + 1e-5))
        return self.b(y.sigmoid().mean(1, keepdim=True))


def _masked(net: nn.Module, plan: graphprune.Plan) -> nn.Module:
    """The net with zeros in place of what goes."""
    out = copy.deepcopy(net)
    named = dict(out.named_parameters())
    for name, kept in plan.kept.items():
        for dim, indices in enumerate(kept):
            if indices is not None and name in named:
                gone = np.setdiff1d(np.arange(named[name].shape[dim]), indices)
                named[name].data.index_fill_(dim, torch.as_tensor(gone), 0)
    return out


def _trained(kind: str) -> _Net:
    torch.manual_seed(0)
    net = _Net(kind).double().eval()
    nn.init.uniform_(net.norm.weight, 0.5, 1.5)
    nn.init.normal_(net.norm.bias)
    nn.init.normal_(net.norm.running_mean)
    return net


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "kind", ["a layer reads it", "a norm makes it", "beside another channel", "of all"]
)
def test_a_mean_divides_by_as_many_as_before(kind: str, training: bool) -> None:
    net = _trained(kind)
    example = torch.randn(2, 3, 6, 6).double()
    plan = graphprune.plan(net, 0.4, example_inputs=example, compensate=False)
    small = plan.apply()
    assert type(small) is _Net and small.a.out_channels < 16
    assert plan.report.verification.exact
    x = torch.randn(5, 3, 6, 6).double()
    wanted = _masked(net, plan).train(training)(x)
    torch.testing.assert_close(small.train(training)(x), wanted, rtol=1e-9, atol=1e-9)


def test_code_is_generated_where_no_weight_can_hold_the_share() -> None:
    net = _trained("nothing can hold it")
    example = torch.randn(2, 3, 6, 6).double()
    plan = graphprune.plan(net, 0.4, example_inputs=example, compensate=False)
    small = plan.apply()
    assert plan.report.replaced == {"": "aten.mean divides by the new width"}
    x = torch.randn(5, 3, 6, 6).double()
    torch.testing.assert_close(small(x), _masked(net, plan)(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["centred", "root mean square", "of numbers that are not zero"])
def test_a_statistic_is_taken_anew(kind: str) -> None:
    plan = graphprune.plan(
        _trained(kind), 0.4, example_inputs=torch.randn(2, 3, 6, 6).double(), compensate=False
    )
    assert type(plan.apply()) is _Net
    assert "mean" in plan.report.verification.mixing


def test_a_file_holds_the_share() -> None:
    rng = np.random.default_rng(0)
    weights = {"a": rng.standard_normal((8, 16)), "b": rng.standard_normal((1, 4))}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]),
        helper.make_node("ReduceMean", ["h"], ["m"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["m", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    kept = plan.kept["a"][1]
    x = rng.standard_normal((3, 8)).astype(np.float32)
    wanted = (x @ weights["a"][:, kept]).sum(1, keepdims=True) / 16 @ weights["b"]
    (found,) = onnx.reference.ReferenceEvaluator(small).run(None, {"x": x})
    assert len(kept) < 16
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
