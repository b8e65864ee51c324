"""Matrix products of every rank, biased ones, and einsum."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.rules.cases import Case, case, check, each, t

A = torch.ops.aten
_EQUATIONS = {
    "bhqd,bhkd->bhqk": [(2, 3, 4, 6), (2, 3, 5, 6)],
    "bqhd,bkhd->bhqk": [(2, 4, 3, 6), (2, 5, 3, 6)],
    "ij,jk": [(4, 5), (5, 6)],
    "bij, bjk -> bik": [(2, 4, 5), (2, 5, 6)],
    "...ij,...jk->...ik": [(2, 3, 4, 5), (3, 5, 6)],
    "...d,de->...e": [(2, 3, 4), (4, 5)],
    "bnc,c->bn": [(2, 3, 4), (4,)],
    "i,j->ij": [(3,), (4,)],
    "i,i->": [(3,), (3,)],
    "ijk->kij": [(3, 4, 5)],
    "ijk->ik": [(3, 4, 5)],
    "ij->": [(3, 4)],
    "ba": [(3, 4)],
    "bi,oij,bj->bo": [(2, 3), (4, 3, 5), (2, 5)],
    "BhWc,hWk->BWkc": [(2, 3, 4, 5), (3, 4, 6)],
}

CASES = [
    case("tensordot", lambda x, y: torch.tensordot(x, y, 1), t(3, 4), t(4, 5)),
    case(
        "tensordot of two",
        lambda x, y: torch.tensordot(x, y, ([2, 0], [0, -1])),
        t(3, 4, 5),
        t(5, 6, 3),
    ),
    case("tensordot of none", lambda x, y: torch.tensordot(x, y, 0), t(3, 4), t(5)),
    case("inner", torch.inner, t(2, 3, 4), t(5, 4)),
    case("inner with a number", torch.inner, t(2, 3), t()),
    case("linear", F.linear, t(2, 3, 4), t(5, 4), t(5)),
    case("linear 1d", F.linear, t(4), t(5, 4), t(5)),
    case("linear 2d", F.linear, t(3, 4), t(5, 4)),
    case("linear 4d", F.linear, t(2, 3, 6, 4), t(5, 4)),
    case("linear vector weight", F.linear, t(3, 4), t(4)),
    case("bilinear", F.bilinear, t(2, 3, 4), t(2, 3, 5), t(6, 4, 5), t(6)),
    case("mm", torch.mm, t(3, 4), t(4, 5)),
    case("bmm", torch.bmm, t(2, 3, 4), t(2, 4, 5)),
    case("mv", torch.mv, t(3, 4), t(4)),
    case("dot", torch.dot, t(4), t(4)),
    case("vdot", torch.vdot, t(4), t(4)),
    case("addmm", torch.addmm, t(5), t(3, 4), t(4, 5)),
    case("addmm matrix", torch.addmm, t(3, 5), t(3, 4), t(4, 5)),
    case("addmm column", torch.addmm, t(3, 1), t(3, 4), t(4, 5)),
    case("addmv", torch.addmv, t(3), t(3, 4), t(4)),
    case("baddbmm", torch.baddbmm, t(2, 3, 5), t(2, 3, 4), t(2, 4, 5)),
    case("baddbmm row", torch.baddbmm, t(1, 5), t(2, 3, 4), t(2, 4, 5)),
    case("addbmm", torch.addbmm, t(3, 5), t(2, 3, 4), t(2, 4, 5)),
    case("outer", torch.outer, t(3), t(4)),
    case("ger", torch.ger, t(3), t(4)),
    *(
        case(f"matmul {len(a)}d {len(b)}d", torch.matmul, t(*a), t(*b))
        for a in [(4,), (3, 4), (2, 3, 4), (6, 2, 3, 4)]
        for b in [(4,), (4, 5), (2, 4, 5), (6, 2, 4, 5)]
    ),
    case("matmul broadcast", torch.matmul, t(6, 1, 3, 4), t(2, 4, 5)),
    case("matmul by itself", lambda x: x @ x.mT, t(2, 3, 4)),
    case("gram", lambda x: x.mT @ x, t(3, 4)),
    *(
        case(equation, lambda *x, e=equation: torch.einsum(e, *x), *(t(*s) for s in shapes))
        for equation, shapes in _EQUATIONS.items()
    ),
    case("einsum of a diagonal", lambda x: torch.einsum("bii->bi", x), t(2, 3, 3)),
    case("einsum of a trace", lambda x: torch.einsum("ii->", x), t(3, 3)),
    case("einsum broadcast", lambda x, y: torch.einsum("bi,bj->bij", x, y), t(1, 3), t(2, 4)),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)


def test_grouped_products_of_experts() -> None:
    pytest.importorskip("transformers.integrations.moe")
    product = torch.ops.transformers.grouped_mm_fallback
    ends = torch.tensor([2, 3, 7], dtype=torch.int32)
    check(case("grouped", lambda x, w: product(x, w, ends), t(7, 8), t(3, 8, 4)))
