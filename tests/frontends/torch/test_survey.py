"""Classes that are kept, whatever way their code gives lengths to torch functions."""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune


class _Splits(nn.Module):
    """`torch.split` and `Tensor.split`, which torch.export counts apart under one name."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes, self.more = [8, 24], [12, 4]
        self.a, self.b, self.c = nn.Linear(6, 32), nn.Linear(24, 16), nn.Linear(8, 4)
        self.d, self.e = nn.Linear(12, 5), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.split(self.a(x), self.sizes, -1)
        third, fourth = F.relu(self.b(second)).split(self.more, -1)
        return self.d(third) + self.e(fourth + self.c(first))


class _Positions(nn.Module):
    """Segments told by the positions between them."""

    def __init__(self) -> None:
        super().__init__()
        self.places = (8, 20)
        self.a = nn.Linear(6, 32)
        self.heads = nn.ModuleList(nn.Linear(n, 5) for n in (8, 12, 12))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.tensor_split(self.a(x), indices=self.places, dim=-1)
        return sum(head(part) for head, part in zip(self.heads, parts, strict=True))


class _ShortTime(nn.Module):
    """The inverse of a short-time transform looks at values, of which a guided pass has none."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 24
        self.a, self.b = nn.Conv2d(2, 24, 3, padding=1), nn.Conv1d(24, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(16, device=x.device)
        z = torch.stft(x, 16, window=window, return_complex=True)
        y = F.relu(self.a(torch.view_as_real(z).permute(0, 3, 1, 2)))
        y = self.b(y.reshape(len(x), self.channels, -1)).unflatten(2, z.shape[1:])
        y = torch.view_as_complex(y.permute(0, 2, 3, 1).contiguous())
        return torch.istft(y, 16, window=window, length=x.shape[1])


class _Constant(nn.Module):
    """A scale that is made as a tensor of a width."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 12), nn.Linear(16, 12), nn.Linear(16, 64)
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x), self.k(x)
        weights = q @ k.transpose(1, 2) / torch.sqrt(torch.tensor(q.shape[-1]))
        return self.out(weights.softmax(-1) @ self.v(x))


class _Radix(nn.Module):
    """Branches that are summed, and code of its own for a single one."""

    def __init__(self) -> None:
        super().__init__()
        self.radix = 2
        self.inner = nn.Conv2d(3, 128, 1)
        self.gate = nn.Linear(64, 128)
        self.out = nn.Conv2d(64, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        b, c, h, w = x.shape
        if self.radix > 1:
            x = x.reshape(b, self.radix, c // self.radix, h, w)
            gate = self.gate(x.sum(1).mean((2, 3))).view(b, self.radix, -1)
            x = (x * gate.softmax(1)[..., None, None]).sum(1)
        else:
            x = x * self.gate(x.mean((2, 3))).sigmoid()[..., None, None]
        return self.out(x)


class _Rooted(nn.Module):
    """A temperature that the code derives from the width of the heads, which goes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 2, 240
        self.q, self.k, self.v = (nn.Linear(16, 480) for _ in range(3))
        self.out = nn.Linear(480, 3)

    def split(self, x: Tensor) -> list[Tensor]:
        return [
            f(x).view(*x.shape[:2], self.heads, self.size).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        ]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(self.size)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class _Scaled(_Rooted):
    """The same, where the queries are scaled."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class _Given(_Rooted):
    """The same, given to the attention of PyTorch."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        y = F.scaled_dot_product_attention(q, k, v, scale=self.size**-0.5)
        return self.out(y.transpose(1, 2).flatten(2))


class _Dropped(_Rooted):
    """Makes weights of as many heads as a wider one has, and drops them."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 30, 16

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        y = F.scaled_dot_product_attention(q, k, v, scale=0.25)
        q.new_ones(len(q), 1, 7, 7).broadcast_to(len(q), self.heads, 7, 7)
        return self.out(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("kind", "shape", "ratio"),
    [
        (_Splits, (2, 6), 0.4),
        (_Positions, (2, 6), 0.4),
        (_Constant, (2, 7, 16), 0.4),
        (_ShortTime, (2, 64), 0.4),
        (_Radix, (2, 3, 8, 8), 0.71),
        (_Rooted, (2, 7, 16), 0.4),
        (_Scaled, (2, 7, 16), 0.4),
        (_Given, (2, 7, 16), 0.4),
        (_Dropped, (2, 7, 16), 0.4),
    ],
)
def test_the_class_is_kept(kind: type[nn.Module], shape: tuple[int, ...], ratio: float) -> None:
    torch.manual_seed(0)
    model = kind()
    plan = graphprune.plan(model, ratio, example_inputs=torch.randn(shape), compensate=False)
    small = plan.apply()
    assert type(small) is kind and not plan.report.replaced, plan.report.replaced
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@lru_cache
def _split(batch: int, tokens: int, heads: int) -> tuple[int, ...]:
    """A cache for all models, as einops has one: an equal length comes back as it first came."""
    return batch, tokens, heads, -1


class _Cached(nn.Module):
    """Attention whose shapes come out of a cache."""

    def __init__(self, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(16, 48, bias=False), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        shape = _split(len(x), x.shape[1], self.heads)
        q, k, v = (y.reshape(shape).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        scores = q @ k.transpose(2, 3) / math.sqrt(4)
        return x + self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class _Inner(nn.Module):
    """The same, one module further inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(_Cached(), _Cached())

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x)


def test_lengths_out_of_a_cache_belong_to_the_code_that_runs() -> None:
    x = torch.randn(2, 5, 16)
    for build in (_Inner, lambda: nn.Sequential(_Cached(), _Cached())):
        torch.manual_seed(0)
        model = nn.Sequential(build(), nn.Linear(16, 3)).eval()
        model(x)  # the cache knows plain lengths by now
        plan = graphprune.plan(
            model, 0.5, example_inputs=x, allocation="uniform", round_to=1, compensate=False
        )
        small = plan.apply()
        assert plan.report.replaced == {}
        attention = [m for m in small.modules() if isinstance(m, _Cached)]
        assert all(m.heads < 4 for m in attention)
        assert small(x).shape == (2, 5, 3)


class _Heads(nn.Module):
    """Heads told by an attribute; signs that are made on the CPU, or on any device."""

    def __init__(self, device: str | None) -> None:
        super().__init__()
        self.heads, self.device = 4, device
        self.qkv, self.out = nn.Linear(16, 96), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x * torch.ones(16, device=self.device)).chunk(3, -1)
        n, t, _ = q.shape
        q, k, v = (y.view(n, t, self.heads, -1).transpose(1, 2) for y in (q, k, v))
        mixed = (q @ k.mT).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n, t, -1))


@pytest.mark.parametrize("device", ["cpu", None])
def test_code_that_does_not_run_on_meta_tensors_is_watched_on_fake_ones(device: str | None) -> None:
    model, x = _Heads(device), torch.randn(2, 5, 16)
    plan = graphprune.plan(model, 0.5, example_inputs=x, compensate=False)
    small = plan.apply()
    assert plan.live().program.captured.on_meta is (device is None)
    assert type(small) is _Heads and not plan.report.replaced
    assert plan.report.verification.exact
