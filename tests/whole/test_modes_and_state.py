"""Code that keeps state in buffers, or does more in training: smaller, it goes on as before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
from graphprune.engine.state import preserved


class _Codes(nn.Module):
    """A codebook that follows running means of what is nearest to it (van den Oord et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 16))
        self.decoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))
        self.register_buffer("codes", torch.randn(20, 16))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made = self.encoder(x)
        nearest = torch.cdist(made, self.codes).argmin(-1)
        if self.training:
            with torch.no_grad():
                one = F.one_hot(nearest, len(self.codes)).to(made.dtype)
                self.sums.mul_(0.9).add_(one.T @ made, alpha=0.1)
                self.codes.copy_(self.sums / self.sums.norm(dim=1, keepdim=True))
        found = self.codes[nearest]
        passed = made + (found - made).detach()
        return self.decoder(passed), F.mse_loss(found.detach(), made)


class _Remembers(nn.Module):
    """A hidden state in a buffer, written in evaluation too."""

    def __init__(self) -> None:
        super().__init__()
        self.taken, self.before, self.out = nn.Linear(6, 24), nn.Linear(24, 24), nn.Linear(24, 3)
        self.register_buffer("last", torch.zeros(1, 24))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = torch.tanh(self.taken(x) + self.before(self.last))
        self.last.copy_(made.detach().mean(0, keepdim=True))
        self.calls += 1
        return self.out(made)


class _Trained(nn.Module):
    """Numbers in the code that only training meets."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.first(x).relu()
        if self.training:
            made = made.view(len(x), 4, 8).flip(1).reshape(len(x), 32)
        return self.last(made)


def _masked(net: nn.Module, plan: Any) -> nn.Module:
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    for name, kept in plan.kept.items():
        for dim, indices in enumerate(kept):
            if indices is not None:
                gone = sorted(set(range(named[name].shape[dim])) - set(indices.tolist()))
                named[name].data.index_fill_(dim, torch.tensor(gone), 0)
    return net


@pytest.mark.parametrize("make", [_Codes, _Remembers])
@pytest.mark.parametrize("training", [False, True])
def test_state_goes_on_as_in_the_masked_original(make: type[nn.Module], training: bool) -> None:
    torch.manual_seed(0)
    net = make().double().eval()
    before = {name: held.clone() for name, held in net.state_dict().items()}
    x = torch.randn(4, 6).double()
    plan = graphprune.plan(net, 0.5, example_inputs=x, compensate=False)
    small = plan.apply()
    assert all(torch.equal(held, before[name]) for name, held in net.state_dict().items())
    masked = _masked(net, plan).train(training)
    small.train(training)
    for size in (4, 7):
        x = torch.randn(size, 6).double()
        torch.testing.assert_close(small(x), masked(x))
    assert isinstance(small, make)


def test_code_that_fails_in_training_alone_is_refused_there_by_name() -> None:
    torch.manual_seed(0)
    net, x = _Trained().eval(), torch.randn(2, 6)
    for verify in (True, False):
        small = graphprune.shrink(net, 0.4, example_inputs=x, compensate=False, verify=verify)
        assert small(x).shape == (2, 3)
        try:
            assert small.train()(x).shape == (2, 3)
        except graphprune.GraphPruneError as error:
            assert "training mode" in str(error)


class _Follows(nn.Module):
    """A slow copy of the weights, read in evaluation and written in training (He et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.fast = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
        self.slow = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
        self.slow.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            with torch.no_grad():
                for new, old in zip(self.fast.parameters(), self.slow.parameters(), strict=True):
                    old.mul_(0.9).add_(new, alpha=0.1)
        return torch.cat([self.fast(x), self.slow(x)], -1)


class _Agreeing(nn.Module):
    """A loss between two branches, which only training computes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> Any:
        a, b = self.a(x).relu(), self.b(x).relu()
        made = self.out(torch.cat([a, b], -1))
        return (made, (a * b).sum(1)) if self.training else made


@pytest.mark.parametrize("make", [_Follows, _Agreeing])
@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_what_only_training_couples_is_coupled(make: type[nn.Module], ratio: float) -> None:
    torch.manual_seed(0)
    net, x = make().double().eval(), torch.randn(4, 6).double()
    plan = graphprune.plan(net, ratio, example_inputs=x, compensate=False)
    small, masked = plan.apply().train(), _masked(net, plan).train()
    assert isinstance(small, make)
    for _ in range(2):
        torch.testing.assert_close(small(x), masked(x))


def test_statistics_that_training_mode_writes_are_put_back() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)).eval()
    before = {name: held.clone() for name, held in model.state_dict().items()}
    with preserved(model), torch.no_grad():
        model.train()
        model(torch.randn(8, 4))
    assert not model.training
    for name, held in model.state_dict().items():
        assert torch.equal(held, before[name]), name
