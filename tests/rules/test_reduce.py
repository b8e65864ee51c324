"""Reductions: sums, means, extremes, norms, positions, losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.rules.cases import Case, below, case, check, each, p, t

A = torch.ops.aten
_X = t(3, 6, 5)
_NAMES = "mean amax amin prod var std var_mean std_mean logsumexp nansum nanmean"
_LOSSES = "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy_with_logits"

CASES = [
    case("sum", lambda x: x.sum(1), _X),
    case("sum of all", torch.sum, _X),
    case("sum kept", lambda x: x.sum(-2, keepdim=True), _X),
    case("sum of two", lambda x: x.sum((0, -1)), _X),
    case("sum dtype", lambda x: x.sum(1, dtype=torch.float64), _X),
    case("histc", lambda x: x.histc(4, 0, 1), p(3, 4)),
    case("sum of a scalar", torch.sum, t()),
    *(case(name, lambda x, n=name: getattr(torch, n)(x, 1), _X) for name in _NAMES.split()),
    *(
        case(f"{name} kept", lambda x, n=name: getattr(torch, n)(x, -2, keepdim=True), _X)
        for name in _NAMES.split()
    ),
    case("mean of all", torch.mean, _X),
    case("mean of space", lambda x: x.mean((-2, -1)), t(2, 6, 5, 7)),
    case("var of all", torch.var, _X),
    case("std corrected", lambda x: x.std((0, 2), correction=0), _X),
    case("prod of all", torch.prod, _X),
    case("any", lambda x: (x > 1).any(1), _X),
    case("all", lambda x: (x > -1).all(-1, keepdim=True), _X),
    case("any of all", lambda x: (x > 1).any(), _X),
    case("all of all", lambda x: (x > 1).all(), _X),
    case("any of two", lambda x: A.any.dims(x > 1, [0, 2]), _X),
    case("count_nonzero", lambda x: (x > 0).count_nonzero(1) + 0.5, _X),
    case("max", torch.max, _X),
    case("min", torch.min, _X),
    case("max along", lambda x: x.max(1), _X),
    case("min along kept", lambda x: x.min(-1, keepdim=True), _X),
    case("max of two", lambda x, y: torch.max(x, y), _X, t(6, 1)),
    case("min of two", lambda x, y: torch.min(x, y), _X, t(5)),
    case("aminmax", lambda x: torch.aminmax(x, dim=1), _X),
    case("norm", lambda x: A.norm.ScalarOpt_dim(x, 2, [1]), _X),
    case("norm of all", lambda x: x.norm(), _X),
    case("norm 1", lambda x: x.norm(1, dim=1, keepdim=True), _X),
    case("vector_norm", lambda x: torch.linalg.vector_norm(x, 2, 1), _X),
    case("vector_norm inf", lambda x: torch.linalg.vector_norm(x, float("inf"), 1), _X),
    case("vector_norm -inf", lambda x: torch.linalg.vector_norm(x, -float("inf"), 1), _X),
    case("vector_norm of all", lambda x: torch.linalg.vector_norm(x), _X),
    case("linalg_norm", lambda x: torch.linalg.norm(x, dim=-1), _X),
    case("matrix norm", lambda x: torch.linalg.norm(x, dim=(-2, -1)), _X),
    case("cosine_similarity", lambda x, y: F.cosine_similarity(x, y, 1), _X, t(3, 6, 5)),
    case("cosine_similarity last", lambda x, y: F.cosine_similarity(x, y, -1), _X, t(3, 1, 5)),
    case("pairwise_distance", F.pairwise_distance, t(3, 6), t(3, 6), missed=True),
    case("cdist", torch.cdist, t(2, 3, 6), t(2, 4, 6)),
    case("cdist forward", lambda x, y: A._cdist_forward(x, y, 2.0, None), t(2, 3, 6), t(2, 4, 6)),
    case("pdist", torch.pdist, t(4, 6)),
    case("pdist forward", lambda x: A._pdist_forward(x, 1.0), t(4, 6)),
    case("cross", lambda x, y: torch.linalg.cross(x, y), t(2, 4, 3), t(2, 4, 3)),
    case("argmax", lambda x: x.argmax(1) + 0.5, _X),
    case("argmax of all", lambda x: x.argmax() + 0.5, _X),
    case("argmin kept", lambda x: x.argmin(-1, keepdim=True) + 0.5, _X),
    case("mode", lambda x: x.mode(1), _X),
    case("median", lambda x: x.median(1), _X),
    case("median of all", torch.median, _X),
    case("kthvalue", lambda x: x.kthvalue(2, 1), _X),
    *(
        case(
            f"{name} {r}",
            lambda x, y, n=name, r=r: getattr(F, n)(x, y, reduction=r),
            _X,
            p(3, 6, 5),
        )
        for name in _LOSSES.split()
        for r in ("none", "mean", "sum")
    ),
    case("kl_div", lambda x, y: F.kl_div(x, y, reduction="sum"), _X, p(3, 6, 5)),
    case("binary_cross_entropy", lambda x, y: F.binary_cross_entropy(x, y), p(3, 6, 5), p(3, 6, 5)),
    case("cross_entropy", F.cross_entropy, t(4, 6), below(6, 4)),
    case("nll_loss", F.nll_loss, t(4, 6), below(6, 4)),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)
