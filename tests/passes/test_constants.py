"""Channels that are one number for every input go into the biases of who reads them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import graphprune
from graphprune.frontends.onnx.whole import run_model
from graphprune.importance.known import Known
from tests.passes.test_compact import IMAGE, ROWS, check, conv, exported, zero


def normed(width: int, dead: Any) -> nn.BatchNorm2d:
    """A batch norm that looks trained, some of its channels constant."""
    norm = nn.BatchNorm2d(width)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight[dead] = 0.0
        norm.bias[dead] = norm.bias[dead].abs() + 0.1
    return norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU, nn.Hardswish])
def test_a_constant_goes_through_activations_norms_and_pools(act: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(3, 8), normed(8, [1, 5]), act(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, bias=False),
        normed(6, [2]), act(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4, bias=False),
    )  # fmt: skip
    small, report = check(net.to(dtype).eval(), IMAGE.to(dtype))
    assert small[0].out_channels == 6 and small[4].out_channels == 5
    assert [row.reasons for row in report.groups] == [{"constant": 2}, {"constant": 1}]
    assert type(small[9]) is nn.Linear and small[9].bias is not None


def test_what_is_padded_with_zeros_refuses_a_constant_and_says_so() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(conv(3, 8), normed(8, [1, 5]), nn.ReLU(), conv(8, 6)).eval()
    net.append(nn.Flatten())
    net[1].bias.data[5] = -1.0  # behind the ReLU it is zero, which padding is too
    small, report = check(net, IMAGE)
    assert small[0].out_channels == 7
    assert any("pads with zeros" in why for why in report.left.values())


def test_padding_that_repeats_the_border_takes_a_constant() -> None:
    torch.manual_seed(0)
    last = conv(8, 6, padding_mode="replicate")
    net = nn.Sequential(conv(3, 8), normed(8, [1, 5]), nn.ReLU(), last, nn.Flatten()).eval()
    small, _ = check(net, IMAGE)
    assert small[0].out_channels == 6


class Stream(nn.Module):
    """A residual stream behind a batch norm, read by a branch and, joined, by the head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first = conv(3, 8), normed(8, [1, 2])
        self.point, self.last = conv(8, 8, 1), normed(8, [2, 3])
        self.side, self.head = conv(8, 4, 1), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(self.stem(x)))
        x = x + self.last(self.point(x))
        return self.head(torch.cat([x, torch.sigmoid(self.side(x))], 1).mean((2, 3)))


def test_a_stream_is_constant_where_all_its_writers_are() -> None:
    small, report = check(Stream().eval(), IMAGE)
    assert small.stem.out_channels == small.point.in_channels == 7
    assert report.groups[0].reasons == {"constant": 1}


def test_files_too() -> None:
    net = Stream().eval()
    model = exported(net, IMAGE)
    small = graphprune.compact(model)
    held = {t.name: numpy_helper.to_array(t) for t in small.graph.initializer}
    assert max(a.shape[0] for a in held.values() if a.ndim == 4) == 7
    onnx.checker.check_model(small, full_check=True)


def test_a_gate_of_zeros_on_activations() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)
            self.register_buffer("gate", torch.tensor([1.0, 0, 1, 1, 0, 1, 1, 1]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x)) * self.gate)

    small, report = check(Gated(), ROWS)
    assert small.a.out_features == 6 and report.groups[0].reasons == {"zero": 2}
    held = [numpy_helper.to_array(t) for t in
            graphprune.compact(exported(Gated(), ROWS)).graph.initializer]  # fmt: skip
    assert all(8 not in a.shape for a in held)


def test_few_numbers_do_not_pass_for_constants() -> None:
    """Of many channels of two numbers each, some lie on one side of a kink by chance."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4000), nn.ReLU(), nn.Linear(4000, 2))
    zero(net[0].weight, [0])
    deps = graphprune.analyze(net, ROWS[:2])
    known = Known(deps, {deps.groups[0].axis})
    found = known.slices(deps.source.ops[1].outputs[0], 1)
    assert found is not None and np.flatnonzero(found.mask.numpy()).tolist() == [0]


@pytest.mark.parametrize("kind", ["module", "file"])
@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_shrink_takes_constants_first_and_at_no_cost(kind: str, importance: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(3, 16), normed(16, [0, 3, 4, 7, 9, 12, 13, 15]), nn.ReLU(), nn.Conv2d(16, 6, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    ).eval()  # fmt: skip
    net[0].weight.data[::2] *= 1e-3  # which no criterion by size would leave
    model = net if kind == "module" else exported(net, IMAGE)
    given = {"example_inputs": IMAGE} if kind == "module" else {}
    plan = graphprune.plan(
        model, ratios={net_first(kind): 0.5}, importance=importance, compensate=False, **given
    )
    small = plan.apply()
    gone = set(range(16)) - set(plan.groups[0].keep.tolist())
    assert gone == {0, 3, 4, 7, 9, 12, 13, 15}
    if kind == "module":
        assert (small(IMAGE) - net(IMAGE)).abs().max() < 1e-5
        again = plan.apply(copy.deepcopy(net))
        assert torch.equal(again(IMAGE), small(IMAGE))
    else:
        x = {"x": IMAGE.numpy()}
        assert np.abs(run_model(small, x)[0] - run_model(model, x)[0]).max() < 1e-5


def net_first(kind: str) -> str:
    """What names the first layer."""
    return "0" if kind == "module" else "0.weight"
