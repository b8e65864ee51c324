"""What PyTorch gets wrong during a capture."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Categorical, Distribution, Normal

import graphprune
from tests.blocks import PaddedShortcut, images


def test_data_is_read_as_detach() -> None:
    torch.manual_seed(0)
    model, inputs = PaddedShortcut(cut=True).eval(), images()
    deps = [graphprune.analyze(m, inputs) for m in (model, PaddedShortcut().eval())]
    assert [g.size for g in deps[0].groups] == [g.size for g in deps[1].groups]
    small = graphprune.shrink(model, 0.5, example_inputs=inputs, compensate=False)
    assert type(small) is PaddedShortcut and small.stem.out_channels < 16


class _Policy(nn.Module):
    """Distributions of actions and of a value, whose parameters PyTorch checks by their values."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh())
        self.scores, self.value = nn.Linear(32, 4), nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.body(x)
        mean, scale = self.value(x).unbind(-1)
        return Categorical(logits=self.scores(x)).entropy(), Normal(mean, scale.exp()).log_prob(
            mean
        )


def test_distributions_are_captured_whole() -> None:
    model, x = _Policy().eval(), torch.randn(4, 6)
    checks = Distribution._validate_args
    small = graphprune.shrink(model, 0.5, example_inputs=x, compensate=False)
    assert type(small) is _Policy
    assert small.body[0].out_features < 32 and small.body[2].out_features < 32
    assert [y.shape for y in small(torch.randn(7, 6))] == [(7,), (7,)]
    assert Distribution._validate_args is checks
