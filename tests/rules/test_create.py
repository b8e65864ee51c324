"""Tensors made of nothing."""

from __future__ import annotations

import torch

from tests.rules.cases import Case, case, check, each, t

A = torch.ops.aten

CASES = [
    case("zeros", lambda x: torch.zeros(3, 4) + x, t(3, 4)),
    case("ones, cat", lambda x: torch.cat([torch.ones(3, 2), x], 1), t(3, 4)),
    case("full", lambda x: torch.full((3, 1), 2.0) * x, t(3, 4)),
    case("empty", lambda x: torch.empty(3, 4).copy_(x), t(3, 4)),
    case("empty_permuted", lambda x: torch.empty_permuted((3, 4), (1, 0)).copy_(x), t(3, 4)),
    case("empty_strided", lambda x: torch.empty_strided((3, 4), (4, 1)).copy_(x), t(3, 4)),
    case("rand", lambda x: torch.rand(3, 4) + x, t(3, 4)),
    case("randn", lambda x: torch.randn(3, 4) + x, t(3, 4)),
    case("randint", lambda x: torch.randint(5, (3, 4)) + x, t(3, 4)),
    case("randperm", lambda x: x[torch.randperm(3)], t(3, 4)),
    case("new_zeros", lambda x: torch.cat([x, x.new_zeros(3, 2)], 1), t(3, 4)),
    case("new_ones", lambda x: x.new_ones(3, 4) + x, t(3, 4)),
    case("new_full", lambda x: x.new_full((3, 4), 2.0) + x, t(3, 4)),
    case("new_empty", lambda x: x.new_empty(3, 4).copy_(x), t(3, 4)),
    case("new_empty_strided", lambda x: x.new_empty_strided((3, 4), (4, 1)).copy_(x), t(3, 4)),
    case("arange", lambda x: torch.arange(4) * x, t(3, 4)),
    case("arange by 2", lambda x: torch.arange(0, 8, 2) * x, t(3, 4)),
    case("linspace", lambda x: torch.linspace(0, 1, 4) * x, t(3, 4)),
    case("logspace", lambda x: torch.logspace(0, 1, 4) * x, t(3, 4)),
    case("eye", lambda x: torch.eye(4) + x, t(4, 4)),
    case("eye, both lengths told", lambda x: torch.eye(4, 4) + x, t(4, 4)),
    case("eye as rows", lambda x: torch.eye(4).flatten() + x, t(2, 16)),
    case("eye rectangular", lambda x: torch.eye(3, 4) + x, t(3, 4)),
    case("hann_window", lambda x: torch.hann_window(4) * x, t(3, 4)),
    case("hamming_window", lambda x: torch.hamming_window(4) * x, t(3, 4)),
    case("triu_indices", lambda x: x[torch.triu_indices(3, 3)[0]], t(3, 4)),
    case("scalar_tensor", lambda x: torch.scalar_tensor(2.0) * x, t(3, 4)),
    case("tril_indices", lambda x: x[torch.tril_indices(3, 3)[0]], t(3, 4)),
    case("metadata asserted", lambda x: x.to(torch.float64), t(3, 4)),
    case("item", lambda x: x * torch.tensor(2.0).item(), t(3, 4)),
    case("causal mask", lambda x: x + torch.full((5, 5), -9.0).triu(1), t(2, 5, 5)),
    case(
        "class token", lambda x, c: torch.cat([c.expand(3, -1, -1), x], 1), t(3, 4, 5), t(1, 1, 5)
    ),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)
