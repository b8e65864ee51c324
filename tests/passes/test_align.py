"""align: grouped channels that are masked at other places in every group go as well."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from onnx import numpy_helper
from torch import nn

import graphprune
from graphprune.compacting import compacted
from tests.passes.test_compact import check, conv, exported, zero
from tests.passes.test_fold_norms import trained

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WIDTH = 16


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Bottleneck(nn.Module):
    """A block as in ResNeXt and RegNet: 1 x 1, 3 x 3 in groups, 1 x 1, and a skip."""

    def __init__(self, groups: int, act: type[nn.Module], gate: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.act = conv(3, 12), act()
        self.a, self.norm_a = conv(12, WIDTH, 1), nn.BatchNorm2d(WIDTH)
        self.b, self.norm_b = conv(WIDTH, WIDTH, groups=groups), nn.BatchNorm2d(WIDTH)
        self.gate = Gate(WIDTH) if gate else nn.Identity()
        self.c, self.norm_c, self.head = conv(WIDTH, 12, 1), nn.BatchNorm2d(12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.act(self.norm_a(self.a(x)))
        y = self.gate(self.act(self.norm_b(self.b(y))))
        return self.head(torch.relu(x + self.norm_c(self.c(y))).mean((2, 3)))


def silence(layer: nn.Conv2d, norm: nn.BatchNorm2d, rows: Any) -> None:
    for held in (layer.weight, norm.weight, norm.bias):
        zero(held, rows)


def scattered(groups: int, start: int, number: int = 1) -> list[int]:
    """So many channels of every group, at another place in each."""
    each = WIDTH // groups
    return [g * each + (start + g + i) % each for g in range(groups) for i in range(number)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("act", [nn.ReLU, nn.Hardswish])
@pytest.mark.parametrize("groups", [2, 4, 8])
def test_channels_masked_elsewhere_in_every_group_go(
    groups: int, act: type[nn.Module], gate: bool, dtype: torch.dtype
) -> None:
    net = trained(Bottleneck(groups, act, gate)).to(dtype)
    silence(net.a, net.norm_a, scattered(groups, 0))
    silence(net.b, net.norm_b, scattered(groups, 1))
    small, report = check(net, IMAGE.to(dtype))
    assert small.a.out_channels == small.b.in_channels == WIDTH - groups
    assert small.b.out_channels == small.c.in_channels == WIDTH - groups
    assert small.b.groups == groups and not report.left


def test_what_training_sees_stays_the_same() -> None:
    net = trained(Bottleneck(4, nn.ReLU)).double()
    silence(net.a, net.norm_a, scattered(4, 0))
    silence(net.b, net.norm_b, scattered(4, 1))
    passes = [step for step in graphprune.COMPACT if step.name != "fold_norms"]
    plan = graphprune.plan(net, passes=passes, example_inputs=IMAGE.double(), compensate=False)
    small = plan.apply()
    assert small.b.in_channels == small.b.out_channels == WIDTH - 4
    assert plan.report.gap < 1e-12 and plan.report.training_gap < 1e-12


def test_as_many_go_as_the_group_with_the_fewest_has() -> None:
    net = trained(Bottleneck(2, nn.ReLU)).double()
    silence(net.a, net.norm_a, [0, 3, 5, 9, 14])
    small, report = check(net, IMAGE.double())
    assert small.a.out_channels == WIDTH - 4
    for why in report.left.values():
        assert why.startswith("1 of its indices") and "stand for several channels" in why


def test_a_group_that_is_dead_throughout_does_not_count() -> None:
    net = trained(Bottleneck(4, nn.ReLU)).double()
    silence(net.a, net.norm_a, [*range(4, 8), 1, 8, 15])
    silence(net.b, net.norm_b, range(4, 8))
    small, _ = check(net, IMAGE.double())
    assert small.b.groups == 3 and small.b.in_channels == 9


def test_zeros_may_lie_in_what_is_read_or_in_what_reads() -> None:
    net = trained(Bottleneck(4, nn.ReLU)).double()
    silence(net.a, net.norm_a, [1, 6])  # of the first two groups
    zero(net.b.weight.data[8:12], [3], 1)  # the others are not read
    zero(net.b.weight.data[12:], [0], 1)
    small, _ = check(net, IMAGE.double())
    assert small.a.out_channels == WIDTH - 4


def test_constants_elsewhere_in_every_group_go_into_biases() -> None:
    net = trained(Bottleneck(4, nn.ReLU)).double()
    for held in (net.b.weight, net.norm_b.weight):  # the shift is left
        zero(held, scattered(4, 2))
    small, _ = check(net, IMAGE.double())
    assert small.b.out_channels == WIDTH - 4 and small.c.bias is not None


class Stream(nn.Module):
    """A stream that convolutions in 2, 4 and 8 groups, a depthwise and a plain one write."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = conv(3, 24)
        self.layers = nn.ModuleList(conv(24, 24, groups=n) for n in (2, 4, 24, 1))
        self.norms = nn.ModuleList(nn.BatchNorm2d(24) for _ in self.layers)
        self.head = nn.Linear(24 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + torch.tanh(norm(layer(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def test_streams_and_groups_of_groups() -> None:
    net = trained(Stream()).double()
    rows = [0, 7, 15, 20]  # one of each six
    zero(net.stem.weight, rows)
    for layer, norm in zip(net.layers, net.norms, strict=True):
        silence(layer, norm, rows)
    small, _ = check(net, IMAGE.double())
    assert small.stem.out_channels == 20 and [m.groups for m in small.layers] == [2, 4, 20, 1]


class Shuffled(nn.Module):
    """Channels of groups that change places between two convolutions, as in ShuffleNet."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = conv(3, 16, bias=True), conv(16, 16, groups=4)
        self.c, self.head = conv(16, 16, groups=4), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        x = x.reshape(len(x), 4, 4, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.head(torch.relu(self.c(x)).mean((2, 3)))


def test_shuffled_channels_are_correct_whatever_goes() -> None:
    net = Shuffled().double().eval()
    for layer in (net.a, net.b, net.c):
        zero(layer.weight, [1, 6, 8, 15])
    zero(net.a.bias, [1, 6, 8, 15])
    small, _ = check(net, IMAGE.double())
    assert small.c.out_channels == small.head.in_features == 12 and small.b.in_channels == 12


def test_orders_that_groups_must_share_are_left_alone() -> None:
    """A table that all groups share says which channel is which."""

    class Shared(Bottleneck):
        def __init__(self) -> None:
            super().__init__(4, nn.ReLU)
            self.table = nn.Parameter(torch.rand(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.norm_a(self.a(torch.relu(self.stem(x)))))
            y = torch.relu(self.norm_b(self.b(y)))
            y = y.unflatten(1, (4, 4)) * self.table[:, None, None]
            return self.head(self.norm_c(self.c(y.flatten(1, 2))).mean((2, 3)))

    net = trained(Shared()).double()
    silence(net.a, net.norm_a, scattered(4, 0))
    silence(net.b, net.norm_b, scattered(4, 1))
    small, report = check(net, IMAGE.double())
    assert small.a.out_channels == WIDTH - 4 and small.b.out_channels == WIDTH
    assert "stand for several channels" in str(report.left)


def test_files_lose_the_same() -> None:
    net = trained(Bottleneck(4, nn.ReLU, gate=True))
    silence(net.a, net.norm_a, scattered(4, 0))
    silence(net.b, net.norm_b, scattered(4, 1))
    plan = compacted(exported(copy.deepcopy(net), IMAGE), {})
    shapes = [numpy_helper.to_array(t).shape for t in plan.apply().graph.initializer]
    assert (WIDTH - 4, 3, 3, 3) in shapes and (12, WIDTH - 4, 1, 1) in shapes
    assert plan.report.gap < 1e-5
