"""Blocks that compute with their widths: smaller, they are the masked original at any batch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune


class _Alibi(nn.Module):
    """Attention whose biases follow from the number of heads (Press et al. 2022)."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 8
        self.stem, self.out = nn.Linear(6, 32), nn.Linear(32, 5)
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        b, t, _ = x.shape
        q, k, v = (
            f(x).view(b, t, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        slopes = torch.tensor([2 ** (-8 * (i + 1) / self.heads) for i in range(self.heads)])
        places = torch.arange(t)
        bias = -(places[:, None] - places).abs() * slopes[:, None, None].to(x.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.width**-0.5)
        return self.out(y.transpose(1, 2).reshape(b, t, -1))


class _Wave(nn.Module):
    """Gates and skips that are told apart by a number of channels (WaveNet, as in VITS)."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_channels = 16
        self.pre, self.post = nn.Conv1d(4, 16, 1), nn.Conv1d(16, 3, 1)
        self.taken = nn.ModuleList(nn.Conv1d(16, 32, 3, padding=1) for _ in range(2))
        self.given = nn.ModuleList(nn.Conv1d(16, n, 1) for n in (32, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, n = self.pre(x), self.hidden_channels
        y = self.taken[0](x)
        y = self.given[0](torch.tanh(y[:, :n]) * torch.sigmoid(y[:, n:]))
        x, skipped = x + y[:, :n], y[:, n:]
        y = self.taken[1](x)
        return self.post(skipped + self.given[1](torch.tanh(y[:, :n]) * torch.sigmoid(y[:, n:])))


class _Recurrent(nn.Module):
    """Dropout between the layers of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 16, 2, dropout=0.5, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0])


def _shuffled() -> nn.Module:
    grouped = nn.Conv2d(16, 16, 3, groups=4)
    return nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ChannelShuffle(4), grouped, nn.ReLU(), nn.Conv2d(16, 4, 1)
    )


@pytest.mark.parametrize(
    ("make", "shape", "other"),
    [
        (_Alibi, (2, 7, 6), (3, 9, 6)),
        (_Wave, (2, 4, 11), (3, 4, 17)),
        (_Recurrent, (2, 5, 6), (4, 8, 6)),
        (_shuffled, (2, 3, 6, 6), (3, 3, 8, 8)),
    ],
    ids=["slopes of heads", "channels by number", "dropout inside", "shuffle"],
)
def test_smaller_is_masked(
    make: type[nn.Module], shape: tuple[int, ...], other: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    net = make().double().eval()
    plan = graphprune.plan(net, 0.5, example_inputs=torch.randn(shape).double(), compensate=False)
    small, masked = plan.apply(), copy.deepcopy(net)
    named = dict(masked.named_parameters())
    for name, kept in plan.kept.items():
        for dim, indices in enumerate(kept):
            if indices is not None and name in named:
                gone = sorted(set(range(named[name].shape[dim])) - set(indices.tolist()))
                named[name].data.index_fill_(dim, torch.tensor(gone), 0)
    assert isinstance(small, type(net))
    for size in (shape, other):
        x = torch.randn(size).double()
        torch.testing.assert_close(small(x), masked(x), rtol=1e-9, atol=1e-9)
    small.train()
    drops = any(getattr(module, "dropout", 0) for module in net.modules())
    assert torch.equal(small(x), small(x)) is not drops
