"""A smaller module that makes the calls of the narrowed graph is not run to be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.frontends.torch import program
from graphprune.importance.stored import zeros
from tests.frontends.torch.recording import recorded_here

pytestmark = recorded_here


class Block(nn.Module):
    """Two layers, with code between them that is told a width."""

    def __init__(self, code: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.code = code
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 8)
        self.norm = nn.LayerNorm(32)
        self.width = 32

    def forward(self, x: Tensor) -> Tensor:
        """What the code makes of it."""
        out: Tensor = self.b(self.code(self, self.a(x)))
        return out


def follows(m: Any, x: Tensor) -> Tensor:
    return m.norm(x.reshape(-1, m.width)).reshape(x.shape[0], -1, m.width).relu()


def scales(m: Any, x: Tensor) -> Tensor:
    """The factor is another one for another width."""
    return m.norm(x.reshape(-1, m.width).reshape(x.shape)) * x.shape[-1] ** -0.5


@pytest.mark.parametrize(("code", "compared"), [(follows, False), (scales, True)])
def test_results_are_compared_only_where_calls_differ(
    code: Callable[[Any, Tensor], Tensor], compared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Any] = []
    compare = program.compare
    monkeypatch.setattr(program, "compare", lambda *a: (runs.append(a), compare(*a))[1])
    torch.manual_seed(0)
    model, x = Block(code).eval(), torch.randn(3, 5, 8)
    told = {"example_inputs": (x,), "compensate": False}
    small = graphprune.shrink(model, 0.5, verify=False, **told)
    assert small.a.out_features < 32
    assert bool(runs) is compared
    runs.clear()
    checked = graphprune.shrink(model, 0.5, verify=True, **told)
    assert runs
    torch.testing.assert_close(small(x), checked(x))


@pytest.mark.parametrize("shape", [(5,), (6, 9), (4, 20, 3, 3), (3, 1)])
def test_slices_of_zeros_are_found(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    for dim, size in enumerate(shape):
        weight = torch.randn(shape)
        weight.select(dim, size - 1).zero_()
        almost = weight.select(dim, 0)
        almost.zero_()[(-1,) * almost.dim()] = 1
        live = (weight != 0).movedim(dim, 0).reshape(size, -1).any(1)
        assert torch.equal(zeros(weight, dim), ~live)
