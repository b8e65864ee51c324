"""Ways to write down a width that the caller's own code goes on with."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune


class _FromEnd(nn.Module):
    """An eighth of the channels, counted from the end."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        share = x.shape[1] // 8
        return self.last(torch.cat([x[:, -share:] * 2, x[:, :-share].relu()], 1))


class _Dots(nn.Module):
    """A quarter of the last dimension, behind dots."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        share = x.shape[-1] // 4
        return self.last(torch.cat([x[..., :share] * 2, x[..., share:].relu()], -1))


class _Turned(nn.Module):
    """A spatial transformer, whose grid is told the whole shape (Jaderberg et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 4, 1)
        self.turns = nn.Linear(32, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        turned = self.turns(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(turned, x.size(), align_corners=False)
        return self.last(F.grid_sample(x, grid, align_corners=False))


class _Steps(nn.Module):
    """Rows that are written one by one, from states behind one another (Griffin, RWKV)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        state, found = torch.zeros_like(x[:, :, 0]), torch.zeros_like(x)
        for row in range(x.shape[2]):
            state = 0.5 * state + x[:, :, row]
            found[:, :, row] = state
        return self.last(found)


class _Aligned(nn.Module):
    """A computed matrix beside an identity, over all channels (PointNet: Qi et al. 2017)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 4, 1)
        self.matrix = nn.Linear(width, width * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        made = self.matrix(x.mean((2, 3))) + torch.eye(self.width).flatten()
        return self.last(torch.einsum("bchw,bcd->bdhw", x, made.view(-1, self.width, self.width)))


_NETS = [_FromEnd, _Dots, _Turned, _Steps, _Aligned]


@pytest.mark.parametrize("make", _NETS)
@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_the_class_is_kept_and_removal_is_masking(make: type[nn.Module], ratio: float) -> None:
    torch.manual_seed(0)
    net = make().double().eval()
    plan = graphprune.plan(
        net, ratio, example_inputs=torch.randn(2, 3, 12, 12).double(), compensate=False
    )
    small, masked = plan.apply(), copy.deepcopy(net)
    named = dict(masked.named_parameters())
    for name, kept in plan.kept.items():
        for dim, indices in enumerate(kept):
            if indices is not None:
                gone = sorted(set(range(named[name].shape[dim])) - set(indices.tolist()))
                named[name].data.index_fill_(dim, torch.tensor(gone), 0)
    assert plan.report is not None and not plan.report.replaced
    assert type(small) is make
    for size in ((3, 3, 12, 12), (1, 3, 9, 12)):
        x = torch.randn(size).double()
        torch.testing.assert_close(small(x), masked(x))


class _Largest(nn.Module):
    """The largest channel at each place; where it was found is not asked (Woo et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 4, 1)
        self.places = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(x * torch.sigmoid(self.places(x.max(1, keepdim=True)[0])))


def test_positions_that_nobody_asks_for_lock_nothing() -> None:
    small = graphprune.shrink(_Largest(), 0.5, example_inputs=torch.randn(2, 3, 8, 8))
    assert small.first.out_channels == 16


def test_weights_that_no_operation_uses_are_named_where_a_budget_fails() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    net[0].spare = nn.Linear(64, 64)
    with pytest.raises(graphprune.BudgetError, match="in weights that no operation uses"):
        graphprune.shrink(net, 0.5, example_inputs=torch.randn(2, 8), compensate=False)
