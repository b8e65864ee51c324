"""What cannot be refitted counts in the loss curves as what loses all that goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.compensation.consumers import find_consumers
from graphprune.compensation.unsolved import find_unsolved


class Mixed(nn.Module):
    """Channels that a linear layer reads, and a bilinear one, which is not refitted."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(8, 32), nn.Linear(32, 32)
        self.b, self.h, self.k = nn.Bilinear(32, 32, 8), nn.Linear(8, 4), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x).relu()
        second = self.c(first).relu()
        out: Tensor = self.h(self.b(first, second)) + self.k(second)
        return out


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_channels_that_something_loses_for_good_stay_for_longer(seed: int) -> None:
    torch.manual_seed(seed)
    net, data, unseen = Mixed().eval(), torch.randn(256, 8), torch.randn(128, 8)
    plan = graphprune.plan(
        net, 0.4, of="channels", example_inputs=data[:2], data=data, compensate=True, effort="fast"
    )
    small = plan.apply()
    kept = {edit.name: len(edit.keep) for edit in plan.groups if edit.keep is not None}
    assert kept["c.weight[0]"] >= 12  # 8 to 10, where the bilinear layer does not count
    with torch.no_grad():
        wanted, found = net(unseen), small(unseen)
    assert (found - wanted).norm() < 0.7 * (wanted - wanted.mean(0)).norm()


class Summed(nn.Module):
    """Channels that are divided by their own norm, or weighed by their mean, at each place."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 1), nn.Conv2d(24, 5, 1)
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        h = h * h.mean(1, keepdim=True).sigmoid() if self.mean else nn.functional.normalize(h)
        out: Tensor = self.c(self.b(h).relu())
        return out


@pytest.mark.parametrize("mean", [False, True])
def test_sums_over_channels_leave_these_free_to_go(mean: bool) -> None:
    torch.manual_seed(0)
    net, data, unseen = Summed(mean).eval(), torch.randn(64, 3, 10, 10), torch.randn(32, 3, 10, 10)
    plan = graphprune.plan(net, 0.5, example_inputs=data[:2], data=data, effort="fast")
    small = plan.apply()
    kept = {edit.name: len(edit.keep) for edit in plan.groups if edit.keep is not None}
    assert kept["a.weight[0]"] < 16  # and not all of the other group in its place
    with torch.no_grad():
        wanted, found = net(unseen), small(unseen)
    assert (found - wanted).norm() < 0.5 * (wanted - wanted.mean((0, 2, 3), True)).norm()


def test_operands_without_weights_are_another_matter() -> None:
    """Attention's products go last as it is (`NEEDED`), and what is refitted is no part of it."""
    net = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    deps = graphprune.analyze(net, torch.randn(2, 5, 16))
    assert not find_unsolved(deps, find_consumers(deps).by_op)


def test_powers_are_those_of_every_channel() -> None:
    deps = graphprune.analyze(Mixed().eval(), torch.randn(2, 8))
    found = find_unsolved(deps, find_consumers(deps).by_op)
    assert [op.type for op in found] == ["aten.bilinear"]
    first, second = found[next(iter(found))]
    assert first.value.shape == second.value.shape == (2, 32)
    x = torch.randn(6, 32)
    torch.testing.assert_close(first.powers([x[:3], x[3:]]), x.double().square().mean(0))
