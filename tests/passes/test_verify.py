"""verify: what cannot be compared, and what still must be."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune


class Variational(nn.Module):
    """A latent drawn anew in each pass, as variational autoencoders do in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(12, 32)
        self.mean, self.scale = nn.Linear(32, 16), nn.Linear(32, 16)
        self.decoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.encoder(x))
        noise = torch.randn_like(self.mean(x))
        return self.decoder(self.mean(x) + noise * self.scale(x).exp())


class Noisy(nn.Module):
    """Noise that is drawn into memory made for it, in eval mode too (StyleGAN, Gumbel softmax)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = x + x.new_empty(len(x), 1).normal_()
        return self.b(x * F.gumbel_softmax(x, dim=0))


class AlwaysDropping(nn.Module):
    """Dropout that eval mode does not turn off."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(F.relu(self.a(x)), 0.3))


class Chaotic(nn.Module):
    """Steps each of which makes a small difference fifty times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 600), nn.Linear(600, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        for _ in range(8):
            x = torch.sin(50 * x)
        return self.last(x)


def _checked(model: nn.Module, **options: Any) -> nn.Module:
    """A smaller model that passed the check, from inputs on which every draw counts."""
    inputs = (torch.randn(4, 12),)
    options |= {"example_inputs": inputs, "compensate": False}
    plan = graphprune.plan(model.eval(), 0.5, **options)
    small = plan.apply()
    assert plan.report is not None and plan.report.verification is not None
    assert plan.report.verification.difference < 1e-12
    assert plan.report.verification.lowered < 1e-5
    assert type(small) is type(model)
    return small


def test_random_numbers_of_another_length_are_taken_over() -> None:
    small = _checked(Variational(), ratios={"mean.*": 0.5})
    assert small.mean.out_features == 8


def test_numbers_drawn_in_place_are_a_draw_too() -> None:
    small = _checked(Noisy())
    assert small.a.out_features < 32


def test_dropout_in_eval_mode_is_a_draw_too() -> None:
    small = _checked(AlwaysDropping())
    assert small.a.out_features < 32


def test_rounding_does_not_add_up_in_deep_networks() -> None:
    small = _checked(Chaotic(), ratios={"first": 0.5})
    assert small.first.out_features == 300


class _Attending(nn.Module):
    """Attention whose mean over heads is made, and dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        found: Tensor = self.b(self.attention(x, x, x)[0])
        return found


def test_what_nothing_depends_on_makes_nothing_inexact() -> None:
    example = torch.randn(2, 5, 6)
    plan = graphprune.plan(_Attending(), 0.5, example_inputs=example, compensate=False)
    plan.apply()
    assert any(row.size == 4 and row.kept < 4 for row in plan.report.groups)
    assert plan.report.verification.exact and not plan.report.verification.mixing


class _Remade(nn.Module):
    """Makes a layer at its call, and gives it weights that it has already."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = nn.Linear(8, 32)
        made.weight, made.bias = self.a.weight, self.a.bias
        return self.b(made(x).relu())


def test_numbers_that_are_drawn_for_nothing_are_not_compared() -> None:
    small = graphprune.shrink(_Remade(), 0.5, example_inputs=torch.randn(2, 8), compensate=False)
    assert small.a.out_features < 32
