"""Copies of modules are those that `copy.deepcopy` makes."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations

from graphprune.engine.copying import copied


class Kept(nn.Module):
    """Says for itself how it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.copies = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept:
        other = Kept()
        other.inner = copy.deepcopy(self.inner, memo)
        other.copies = self.copies + 1
        return other


class Model(nn.Module):
    """Ties, back references, plain objects, modules in lists, and hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.first.weight
        self.first.above = (self,)  # type: ignore[assignment]
        self.config = self.first.config = SimpleNamespace(width=3)  # type: ignore[assignment]
        self.listed = [nn.Linear(3, 3), self.tied]
        self.rnn = nn.GRU(3, 3, batch_first=True)
        self.normed = parametrizations.weight_norm(nn.Linear(3, 3))
        self.kept = Kept()
        self.empty: dict[str, int] = {}
        self.also_empty = self.empty
        self.called = 0
        self.first.register_forward_hook(self.seen)

    def seen(self, *_: Any) -> None:
        self.called += 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.kept.inner(self.normed(self.again(x)) + self.listed[0](x))
        out: torch.Tensor = self.rnn(self.tied(x))[0]
        return out


def test_a_copy_is_a_deep_copy() -> None:
    model = Model().eval()
    made = copied(model)
    x = torch.randn(2, 4, 3)
    assert torch.equal(made(x), model(x))
    assert (made.called, model.called) == (1, 1)
    assert made.first is made.again is not model.first
    assert made.tied.weight is made.first.weight is not model.first.weight
    assert made.first.above == (made,)
    assert made.config is made.first.config is not model.config
    assert made.listed[1] is made.tied
    assert made.listed[0] is not model.listed[0]
    assert made.kept.copies == 1
    assert made.empty is made.also_empty is not model.empty
    with torch.no_grad():
        made.rnn.weight_ih_l0.zero_()
        for parameter in made.first.parameters():
            parameter.zero_()
    assert not torch.equal(made(x), model(x))
    assert list(made.state_dict()) == list(model.state_dict())


def test_what_stands_for_a_module_is_put_in_its_place() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    other = nn.Identity()
    made = copied(model, {id(model[1]): other})
    assert made[1] is other
    assert made[0] is not model[0]
