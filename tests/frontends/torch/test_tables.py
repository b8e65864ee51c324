"""Tables that code keeps outside a module: they hold numbers after a capture, as before it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import nn

import graphprune
from graphprune.frontends.torch.tables import keeps_tables

_TABLES: dict[tuple[int, torch.dtype, torch.device], torch.Tensor] = {}


def _from_dictionary(x: torch.Tensor) -> torch.Tensor:
    key = x.shape[-1], x.dtype, x.device
    if key not in _TABLES:
        _TABLES[key] = torch.arange(key[0], dtype=x.dtype, device=x.device)
    return _TABLES[key]


@lru_cache(maxsize=4)
def _remembered(length: int) -> torch.Tensor:
    return torch.arange(length).float()


def _from_cache(x: torch.Tensor) -> torch.Tensor:
    return _remembered(x.shape[-1])


def _fresh(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(x.shape[-1]).to(x)


class _Tabled(nn.Module):
    def __init__(self, table: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 4)
        self._table = table

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(torch.relu(self.first(x + self._table(x))))
        return out


class _Named(_Tabled):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(x + _from_dictionary(x)))
        out: torch.Tensor = self.last(hidden * _from_cache(hidden))
        return out


@pytest.mark.parametrize("model", [_Tabled(_from_dictionary), _Tabled(_from_cache), _Named(_fresh)])
def test_the_caller_finds_numbers_in_tables_afterwards(model: nn.Module) -> None:
    _TABLES.clear()
    _remembered.cache_clear()
    x = torch.randn(2, 8)
    small = graphprune.shrink(model.eval(), 0.4, example_inputs=x)
    assert torch.isfinite(model(x)).all()
    assert small(x).shape == (2, 4)
    assert all(table.device == device for (_, _, device), table in _TABLES.items())


def test_code_that_makes_its_tables_anew_keeps_none() -> None:
    assert keeps_tables(_Tabled(_from_dictionary))
    assert keeps_tables(_Named(_fresh))
    assert not keeps_tables(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert not keeps_tables(_Tabled(_fresh))
