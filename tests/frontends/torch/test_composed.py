"""Operations that PyTorch composes of others are analysed as what they are made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.rules import registry
from tests.frontends.torch.recording import recorded_here
from tests.frontends.torch.test_tracing import both

COMPOSED: dict[str, Callable[[Tensor], Tensor]] = {
    "another name": torch.arctan,
    "another name in place": lambda x: (x * 1).arcsinh_(),
    "softmax of torch.special": lambda x: torch.special.softmax(x, 1),
    "one dimension more": lambda x: torch.atleast_3d(x).squeeze(-1),
    "several results": lambda x: torch.cat(torch.vsplit(x, 2)),
    "columns": lambda x: torch.column_stack([x, x]).unflatten(1, (2, -1)).sum(1),
    "products": lambda x: torch.linalg.multi_dot([x, x.mT, x]),
    "each with each": lambda x: x * torch.linalg.vecdot(x, x)[:, None],
    "an area": lambda x: x - torch.trapezoid(x, dim=0),
    "a tensor of its own": lambda x: x + torch.vander(x.sum(1), 3)[:, :1],
    "a loss": lambda x: x * nn.functional.cosine_embedding_loss(x, 2 * x, torch.ones(2)),
    "a norm of a matrix": lambda x: x / torch.linalg.matrix_norm(x),
    "a product of Kronecker's": lambda x: torch.kron(x, torch.ones(1, 1)),
}


class Between(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 24), nn.Linear(24, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.function(self.first(x)))
        return found


@pytest.mark.parametrize("name", COMPOSED)
def test_what_they_are_made_of_is_pruned_through(name: str) -> None:
    torch.manual_seed(0)
    model = Between(COMPOSED[name]).eval()
    x = torch.randn(2, 6)
    deps = graphprune.analyze(model, x)
    assert not any("unknown" in lock.reason for lock in deps.locks)
    small = graphprune.shrink(model, 0.4, example_inputs=x, compensate=False)
    assert type(small) is Between and small.first.out_features < 24
    assert small.train()(torch.randn(2, 6)).shape == (2, 4)


@recorded_here
@pytest.mark.parametrize("name", COMPOSED)
def test_recorded_and_exported_they_are_alike(name: str) -> None:
    mine, other = both(Between(COMPOSED[name]).eval(), torch.randn(2, 6))
    assert mine == other


def test_a_rule_goes_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._RULES, "aten.special_sinc", registry._RULES["aten.flip"])
    deps = graphprune.analyze(Between(torch.special.sinc).eval(), torch.randn(2, 6))
    assert any("order matters" in lock.reason for lock in deps.locks)


@recorded_here
def test_a_quantile_is_sorted() -> None:
    model = Between(lambda x: x - torch.quantile(x, 0.5, dim=0)).eval()
    small = graphprune.shrink(model, 0.4, example_inputs=torch.randn(2, 6), compensate=False)
    assert type(small) is Between and small.first.out_features < 24


@recorded_here
def test_what_needs_values_stays_whole() -> None:
    model = Between(lambda x: x * torch.combinations(torch.arange(3.0)).sum()).eval()
    small = graphprune.shrink(model, 0.4, example_inputs=torch.randn(2, 6), compensate=False)
    assert type(small) is Between
