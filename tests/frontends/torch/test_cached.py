"""Models that keep a cache by default: smaller ones make theirs, or it is said why not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import graphprune


class _Config:
    """Sizes by name, written and read as a dict."""

    def __init__(self, **sizes: Any) -> None:
        vars(self).update(sizes)

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class _Recurrent(nn.Module):
    """Starts from a state, which it makes where it is to go on later."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.state = config.inner  # a length that no name tells, and that only a cache needs
        self.embed, self.between = (
            nn.Linear(6, config.hidden),
            nn.Linear(config.hidden, config.between),
        )
        self.inner = nn.Linear(config.between, self.state)
        self.out = nn.Linear(self.state, 5)

    def save_pretrained(self, folder: Any) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor, use_cache: bool | None = None) -> Any:
        h = self.inner(self.between(self.embed(x).relu()).relu())
        if not (self.config.use_cache if use_cache is None else use_cache):
            return self.out(h.relu())
        state = h + x.new_zeros(len(x), self.made())
        return self.out(state.relu()), state

    def made(self) -> int:
        return int(self.state)


class _FromConfig(_Recurrent):
    """Takes the state to be as wide as what goes into the layer."""

    def made(self) -> int:
        return int(self.config.hidden)


def _small(kind: type[_Recurrent], **options: Any) -> tuple[Any, nn.Module]:
    torch.manual_seed(0)
    model = kind(_Config(hidden=48, between=32, inner=48, use_cache=True)).eval()
    model.out.weight.data *= 9  # so that other fractions go where losses decide
    x = torch.randn(2, 6)
    plan = graphprune.plan(model, 0.4, example_inputs=x, **{"compensate": False, **options})
    return plan, plan.apply()


def _told(plan: Any) -> bool:
    return any("use_cache=False" in warning for warning in plan.report.warnings)


def test_a_cache_takes_its_sizes_from_attributes_that_nothing_else_reads() -> None:
    plan, small = _small(_Recurrent)
    x = torch.randn(3, 6)
    assert small.state == len(small.inner.weight) < 48
    torch.testing.assert_close(small(x)[0], small(x, use_cache=False))
    assert not _told(plan)


def test_widths_that_a_cache_takes_for_one_another_stay_equal() -> None:
    plan, small = _small(_FromConfig, compensate=True)
    assert len(small.embed.weight) == len(small.inner.weight) == small.made() < 48
    assert small(torch.randn(3, 6))[1].shape == (3, small.made()) and not _told(plan)


def test_a_cache_of_another_width_is_told() -> None:
    plan, small = _small(_FromConfig, keep=["inner.bias"])
    assert small(torch.randn(3, 6), use_cache=False).shape == (3, 5)
    assert _told(plan)
