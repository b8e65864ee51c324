"""Tables that code makes at its first call and keeps: in dictionaries, lists, buffers, caches."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import graphprune


class Keyed(nn.Module):
    """Scales by a table that is kept for each width."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 40), nn.Linear(40, 40), nn.Linear(40, 5)
        self.tables: dict[int, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        width = x.shape[-1]
        if width not in self.tables:
            self.tables[width] = torch.linspace(0.5, 1.5, width)
        return self.head(self.second(x * self.tables[width]).relu())


class Grids(nn.Module):
    """A detector that keeps its grids in a list, for each size of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 32, 3, 2, 1), nn.Conv2d(32, 27, 1)
        self.register_buffer("anchors", torch.rand(3, 2))
        self.grids = [torch.empty(0)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(self.stem(x).relu())
        b, _, h, w = y.shape
        y = y.view(b, 3, 9, h, w).permute(0, 1, 3, 4, 2)
        if self.grids[0].shape[2:4] != y.shape[2:4]:
            rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            self.grids[0] = torch.stack((columns, rows), -1).view(1, 1, h, w, 2).to(y)
        places = y[..., :2] + self.grids[0]
        sizes = y[..., 2:4] * self.anchors.view(1, 3, 1, 1, 2)
        return torch.cat((places, sizes, y[..., 4:]), -1).view(b, -1, 9)


class Late(nn.Module):
    """A buffer that the first call fills, before others that torch.export takes for it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24)
        self.deep, self.head = nn.Conv2d(24, 32, 3), nn.Conv2d(32, 4, 1)
        self.register_buffer("scales", None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        if self.scales is None or self.scales.shape[1] != x.shape[1]:
            self.scales = torch.linspace(0.5, 1.5, x.shape[1]).view(1, -1, 1, 1)
        return self.head(self.deep(x * self.scales).relu())


KINDS = {
    "dictionary": (Keyed, (2, 7, 16)),
    "list": (Grids, (2, 3, 12, 12)),
    "buffer": (Late, (2, 3, 12, 12)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_used_or_fresh_checked_or_not_the_result_is_the_same(kind: str) -> None:
    build, shape = KINDS[kind]
    x = torch.randn(shape)
    model = build().eval()
    results = []
    for verify in (True, False, True, False):
        plan = graphprune.plan(model, 0.5, example_inputs=x, compensate=False, verify=verify)
        results.append(plan.apply()(x).detach())
        if len(results) == 2:
            model(x)
    assert all(torch.allclose(results[0], other, atol=1e-6) for other in results)


def test_widths_that_tables_are_made_of_stay() -> None:
    small = graphprune.shrink(
        Keyed().eval(), 0.5, example_inputs=torch.randn(2, 7, 16), compensate=False
    )
    assert type(small) is Keyed
    assert (small.first.out_features, small.second.out_features < 40) == (40, True)


def test_grids_in_a_list_keep_the_class() -> None:
    small = graphprune.shrink(
        Grids().eval(), 0.5, example_inputs=torch.randn(2, 3, 12, 12), compensate=False
    )
    assert type(small) is Grids
    assert small(torch.randn(3, 3, 16, 16)).shape == (3, 3 * 64, 9)


@cache
def _slopes(heads: int) -> torch.Tensor:
    return torch.tensor([2.0**-i for i in range(heads)])


class Sloped(nn.Module):
    """Attention with a bias for each head, from a function that keeps what it made."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.qkv, self.out = nn.Linear(8, 24), nn.Linear(24, 96), nn.Linear(32, 24)
        self.wide, self.head = nn.Linear(24, 64), nn.Linear(64, 3)
        self.heads = 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        place = torch.arange(n)
        bias = -(place[None] - place[:, None]).abs() * _slopes(self.heads)[:, None, None]
        y = F.scaled_dot_product_attention(q, k, v, bias, scale=8**-0.5)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, -1))
        return self.head(self.wide(x).relu())


def test_caches_hold_values_afterwards() -> None:
    _slopes.cache_clear()
    for ratio in (0.3, 0.7):
        graphprune.shrink(
            Sloped().eval(), ratio, example_inputs=torch.randn(2, 5, 8), compensate=False
        )
    assert all(type(_slopes(n)) is torch.Tensor and _slopes(n).is_cpu for n in range(1, 5))


class Framed(nn.Module):
    """Sets the border of an image, by slices as many as the sizes that it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (
            nn.Conv2d(3, 24, 1),
            nn.Conv2d(24, 32, 3),
            nn.Conv2d(32, 3, 1),
        )
        self.edge = nn.Parameter(torch.randn(1, 24, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(self.first(x), (1, 1, 1, 1))
        x[:, :, :1] = self.edge
        x[:, :, :, -1:] = self.edge
        return self.head(self.second(x).relu())


def test_slices_are_no_sizes() -> None:
    small = graphprune.shrink(
        Framed().eval(), 0.5, example_inputs=torch.randn(2, 3, 9, 9), compensate=False
    )
    assert type(small) is Framed
    assert small(torch.randn(3, 3, 12, 12)).shape == (3, 3, 12, 12)


class Streaming(nn.Module):
    """Keeps the end of the last piece, behind a buffer that holds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", None)
        self.register_buffer("scale", torch.ones(6, 1))
        self.register_buffer("last", torch.zeros(1, 24, 2))
        self.first, self.second, self.head = (
            nn.Conv1d(6, 24, 1),
            nn.Conv1d(24, 32, 3),
            nn.Conv1d(32, 4, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([self.last.expand(len(x), -1, -1), self.first(x * self.scale).relu()], 2)
        self.last = y[:1, :, -2:].detach()
        return self.head(self.second(y).relu())


def test_state_behind_an_empty_buffer_goes_with_its_channels() -> None:
    model = Streaming().eval()
    names = list(model._buffers)
    small = graphprune.shrink(model, 0.5, example_inputs=torch.randn(2, 6, 8), compensate=False)
    assert list(model._buffers) == list(small._buffers) == names
    assert small.last.shape == (1, small.first.out_channels, 2)
    assert small.first.out_channels < 24
    assert small.scale.shape == (6, 1)
    assert small(torch.randn(3, 6, 9)).shape == (3, 4, 9)


class Biased(nn.Module):
    """Attention biases that start at zero, of which evaluation keeps a table."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 16), nn.Linear(16, 5)
        self.biases = nn.Parameter(torch.zeros(7, 4))
        self.register_buffer("places", torch.arange(7).flip(0), persistent=False)
        self.tables: dict[str, torch.Tensor] = {}
        self.each = 4

    def train(self, mode: bool = True) -> Biased:
        self.tables.clear()
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            table = self.biases[self.places]
        else:
            if "eval" not in self.tables:
                self.tables["eval"] = self.biases[self.places].detach()
            table = self.tables["eval"]
        y = self.first(x).unflatten(-1, (-1, self.each)) * table[..., None].exp()
        return self.head(y.flatten(-2))


def test_tables_of_weights_at_zero_leave_the_class_as_it_is() -> None:
    torch.manual_seed(0)
    model, x = Biased().eval(), torch.randn(2, 7, 6)
    with torch.no_grad():
        model(x)
    plan = graphprune.plan(model, 0.3, example_inputs=x, compensate=False)
    plan.apply()
    assert plan.report is not None and not plan.report.replaced


class Gathering(nn.Module):
    """Adds entries of a table of weights, gathered once for each mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.biases = nn.Linear(8, 12), nn.Parameter(torch.randn(12, 3))
        self.gathered: dict[str, torch.Tensor] = {}

    def train(self, mode: bool = True) -> Gathering:
        super().train(mode)
        self.gathered = {}
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.inner(x) + self.biases[:, 1]
        if "all" not in self.gathered:
            self.gathered["all"] = self.biases[:, 1]
        return self.inner(x) + self.gathered["all"]


def test_tables_computed_of_weights_are_copied() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(Gathering(), nn.ReLU(), nn.Linear(12, 4)).eval(), torch.randn(6, 8)
    model(x)  # its table has a gradient now
    plan = graphprune.plan(model, ratios={"0.inner": 0.5}, example_inputs=x, compensate=False)
    small = plan.apply()
    evaluated = small(x)
    torch.testing.assert_close(small.train()(x), evaluated)
    assert small[0].inner.out_features == 6
