"""Configs that learn the sizes of a narrowed model: smallest classes that are made from one."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune


class _Config:
    """Sizes by name, written and read as a dict."""

    def __init__(self, **sizes: Any) -> None:
        vars(self).update(sizes)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_dict(cls, sizes: dict[str, Any]) -> _Config:
        return cls(**sizes)


class _Model(nn.Module):
    """What is made from a config, and saved with it."""

    def __init__(self, config: _Config) -> None:
        super().__init__()
        self.config = config

    def save_pretrained(self, folder: Any) -> None:
        raise NotImplementedError


def _shrunk(model: _Model, *inputs: Tensor, ratio: float = 0.5) -> tuple[Any, Any]:
    """A plan, and the narrowed model, after what its config makes was found to be the same."""
    plan = graphprune.plan(model, ratio, example_inputs=inputs, compensate=False)
    small = plan.apply()
    assert not plan.report.warnings and not plan.report.replaced, plan.report.warnings
    again = type(model)(_Config.from_dict(small.config.to_dict()))
    again.load_state_dict(small.state_dict())
    torch.testing.assert_close(again.eval()(*inputs), small.eval()(*inputs))
    return plan, small


class _Rotated(_Model):
    """Attention with a rotation of the first entries of each head, as many as heads."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        width = config.width
        self.heads, self.turned, self.size = config.heads, config.turned, width // config.heads
        self.embed = nn.Linear(6, width)
        self.q, self.k, self.v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, 5)
        freq = 1.0 / 10 ** (torch.arange(config.turned // 2) / (config.turned // 2))
        self.register_buffer("freq", freq, persistent=False)

    def turn(self, x: Tensor) -> Tensor:
        x = x.view(*x.shape[:2], self.heads, self.size).transpose(1, 2)
        first, rest = x[..., : self.turned], x[..., self.turned :]
        angle = torch.arange(x.shape[2])[:, None] * self.freq
        a, b = first.chunk(2, -1)
        turned = (a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin())
        return torch.cat([*turned, rest], -1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        v = self.v(h).view(*h.shape[:2], self.heads, self.size).transpose(1, 2)
        y = F.scaled_dot_product_attention(self.turn(self.q(h)), self.turn(self.k(h)), v)
        return self.out(y.transpose(1, 2).reshape(h.shape))


def test_an_entry_of_the_same_value_as_a_width_that_changes_stays() -> None:
    model = _Rotated(_Config(width=48, heads=4, turned=4, unused=48))
    _, small = _shrunk(model, torch.randn(2, 7, 6), ratio=0.42)
    assert (small.config.heads, small.config.turned) == (3, 4), vars(small.config)
    assert small.config.width == 36 and small.config.unused == 48


class _Scaled(_Model):
    """An embedding that is scaled by the root of its width, as code derives it from the config."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embed = nn.Linear(6, config.width)
        self.register_buffer("scale", torch.tensor(config.width**0.5), persistent=False)
        self.up, self.down = (
            nn.Linear(config.width, config.inner),
            nn.Linear(config.inner, config.width),
        )
        self.head = nn.Linear(config.width, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) * self.scale
        return self.head(h + self.down(F.relu(self.up(h))))


def test_a_width_that_a_number_is_derived_from_stays() -> None:
    _, small = _shrunk(_Scaled(_Config(width=16, inner=64)), torch.randn(2, 6), ratio=0.3)
    assert small.config.width == 16 and small.config.inner < 64


class _Looking(_Model):
    """A class that looks for an entry which its configs need not have."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.size = getattr(config, "size", None) or config.width // config.heads
        self.embed = nn.Linear(6, config.width)
        self.q, self.k, self.v = (
            nn.Linear(config.width, config.heads * self.size) for _ in range(3)
        )
        self.out = nn.Linear(config.heads * self.size, config.width)
        self.head = nn.Linear(config.width, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        q, k, v = (
            f(h).view(*h.shape[:2], -1, self.size).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, scale=0.25)
        return self.head(h + self.out(y.transpose(1, 2).flatten(2)))


def test_an_entry_that_the_class_looks_for_is_added() -> None:
    model = _Looking(_Config(width=32, heads=4))
    before = copy.deepcopy(vars(model.config))
    _, small = _shrunk(model, torch.randn(2, 7, 6), ratio=0.4)
    assert small.config.size == small.size and vars(model.config) == before


def test_an_entry_that_is_none_takes_a_part_of_what_is_wrong() -> None:
    model = _Looking(_Config(width=32, heads=4, size=None))
    _, small = _shrunk(model, torch.randn(2, 7, 6), ratio=0.4)
    assert small.config.size == small.size < small.q.out_features
