"""Fused attention: masks, causality, grouped queries, given scales."""

from __future__ import annotations

import torch.nn.functional as F

from tests.rules.cases import Case, case, check, each, t

attention = F.scaled_dot_product_attention
_Q, _K, _V = t(2, 3, 4, 6), t(2, 3, 5, 6), t(2, 3, 5, 8)

# `missed` for the boolean mask: what it forbids is as good as gone.
CASES = [
    case("plain", attention, _Q, _K, _V),
    case("three dimensions", attention, t(2, 4, 6), t(2, 5, 6), t(2, 5, 8)),
    case("scale", lambda q, k, v: attention(q, k, v, scale=0.3), _Q, _K, _V),
    case("mask", attention, _Q, _K, _V, t(4, 5)),
    case("mask for each head", attention, _Q, _K, _V, t(2, 3, 4, 5)),
    case("mask over heads", attention, _Q, _K, _V, t(2, 1, 4, 5)),
    case("boolean mask", attention, _Q, _K, _V, t(4, 5) > -1, missed=True),
    case("row mask", attention, _Q, _K, _V, t(2, 1, 1, 5)),
    case("causal", lambda q, k, v: attention(q, k, v, is_causal=True), _Q, _K, _V),
    case(
        "grouped queries",
        lambda q, k, v: attention(q, k, v, enable_gqa=True),
        *(t(2, 6, 4, 7), t(2, 3, 5, 7), t(2, 3, 5, 8)),
    ),
    case(
        "grouped queries masked",
        lambda q, k, v, m: attention(q, k, v, m, enable_gqa=True),
        *(t(2, 6, 4, 7), t(2, 3, 5, 7), t(2, 3, 5, 8), t(2, 6, 4, 5)),
    ),
    case(
        "multi-query",
        lambda q, k, v: attention(q, k, v, enable_gqa=True),
        *(t(2, 6, 4, 7), t(2, 1, 5, 7), t(2, 1, 5, 8)),
    ),
    case("keys are values", lambda q, k: attention(q, k, k), _Q, _K),
    case("of itself", lambda x: attention(x, x, x), t(2, 3, 4, 6)),
    case(
        "fused projection",
        lambda x, w: attention(*F.linear(x, w).view(2, 5, 3, 4, 6).permute(2, 0, 3, 1, 4)),
        *(t(2, 5, 7), t(72, 7)),
    ),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)
