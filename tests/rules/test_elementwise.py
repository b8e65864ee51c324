"""Operations on each element, broadcasting, and what only looks elementwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.rules.cases import Case, below, case, check, each, p, t

A = torch.ops.aten
_X = t(3, 6, 5)
_ACTIVATIONS = """
    relu relu6 leaky_relu elu celu selu gelu silu mish hardswish hardsigmoid hardtanh logsigmoid
    softplus softsign hardshrink softshrink tanhshrink rrelu
"""
_UNARY = """
    sigmoid tanh neg negative abs exp exp2 expm1 square sign sgn sin cos tan sinh cosh asinh atan
    erf erfc floor ceil round trunc frac nan_to_num isnan isinf isfinite logical_not positive
    clone detach conj resolve_conj resolve_neg absolute fix zeros_like ones_like empty_like
    rand_like randn_like log_sigmoid silu mish alias lift lift_fresh lift_fresh_copy zero
"""
_BETWEEN = """
    log log2 log10 log1p sqrt rsqrt reciprocal asin acos atanh erfinv digamma lgamma logit
    sinc bernoulli
"""
_INTEGER = "bitwise_not bitwise_and bitwise_or bitwise_xor __and__ __or__ __xor__"
_SHIFTS = "bitwise_left_shift bitwise_right_shift __lshift__ __rshift__"
_BROADCAST = """
    add sub subtract rsub mul multiply div divide true_divide floor_divide remainder fmod pow
    float_power maximum minimum fmax fmin atan2 arctan2 hypot eq ne lt le gt ge logical_and
    logical_or logical_xor xlogy heaviside logaddexp logaddexp2 isclose copysign greater less
    not_equal greater_equal less_equal
"""


def _aten(name: str, *rest: object) -> object:
    packet = getattr(A, name)
    return lambda *x: packet(*x, *rest)


def _in_place(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    z = x.clone()
    z.add_(y).mul_(2).relu_().clamp_(0.1, 3).copy_(z * y)
    return z.masked_fill_(z > 1, 0.5)


# `missed` for cumsum: removal equals zeroing, but the sums of ones that number positions do not.
CASES = [
    *(case(name, getattr(F, name), _X) for name in _ACTIVATIONS.split()),
    *(case(f"aten.{name}", _aten(name), _X) for name in _UNARY.split()),
    *(case(f"aten.{name}", _aten(name), p(3, 6, 5)) for name in _BETWEEN.split()),
    case("acosh", lambda x: (x + 1).acosh(), p(3, 6, 5)),
    case("threshold", lambda x: F.threshold(x, 0.1, 2.0), _X),
    case("full_like", lambda x: torch.full_like(x, 2.0), _X),
    case("fill", lambda x: A.fill(x, 2.0), _X),
    case("fill with a tensor", lambda x, y: A.fill(x, y), _X, t()),
    case("randint_like", lambda x: torch.randint_like(x, 5) + x, _X),
    case("contiguous", lambda x: x.mT.contiguous(), _X),
    case("to", lambda x: x.to(torch.float16).to(torch.float64), _X),
    case("to like", lambda x, y: x.to(y), _X, t(2)),
    case("_to_copy", lambda x: A._to_copy(x, dtype=torch.float64), _X),
    case("casts", lambda x: (x.double(), x.half(), x.int(), x.bool(), x.bfloat16()), _X),
    case("type_as", lambda x, y: x.type_as(y), _X, t(2, 4)),
    case("dropout", lambda x: F.dropout(x, 0.5, True), _X),
    case("dropout off", lambda x: F.dropout(x, 0.5, False), _X),
    case("dropout2d", lambda x: F.dropout2d(x, 0.5, True), t(2, 6, 5, 4)),
    case("alpha_dropout", lambda x: F.alpha_dropout(x, 0.5, False), _X),
    case("feature_alpha_dropout", lambda x: F.feature_alpha_dropout(x, 0.5, False), _X),
    case("native_dropout", lambda x: A.native_dropout(x, 0.5, False), _X),
    case("bernoulli of p", lambda x: torch.empty_like(x).bernoulli_(0.5), _X),
    case("normal_", lambda x: torch.empty_like(x).normal_(), _X),
    case("uniform_", lambda x: torch.empty_like(x).uniform_(), _X),
    *(
        case(name, _aten(name), below(9, 3, 6), *[below(8, 6)] * (i > 0))
        for i, name in enumerate(_INTEGER.split())
    ),
    *(case(name, _aten(name), below(9, 3, 6), below(3, 6)) for name in _SHIFTS.split()),
    *(case(f"aten.{name}", _aten(name), _X, t(6, 1)) for name in _BROADCAST.split()),
    case("add scaled", lambda x, y: torch.add(x, y, alpha=2), _X, t(5)),
    case("add of a number", lambda x: 1 + x * 2 - x / 3 + x**2, _X),
    case("add of itself", lambda x: x + x, _X),
    case("add to its transpose", lambda x: x + x.mT, t(3, 4, 4)),
    case("add across", lambda x, y: x[:, None] + y[None], t(3, 5), t(4, 5)),
    case("add at two ranks", lambda x, y: x + y, t(3), t(2, 4, 3)),
    case("where", torch.where, _X > 0, _X, t(6, 1)),
    case("where number", lambda c, x: torch.where(c, x, 0.0), t(6, 5) > 0, _X),
    case("masked_fill", lambda x, m: x.masked_fill(m, -1.0), _X, t(6, 5) > 0),
    case("masked_fill tensor", lambda x, m, v: x.masked_fill(m, v), _X, t(6, 5) > 0, t()),
    case("addcmul", torch.addcmul, _X, t(6, 1), t(5)),
    case("addcdiv", torch.addcdiv, _X, t(6, 1), p(5)),
    case("lerp", torch.lerp, _X, t(3, 6, 5), t(6, 1)),
    case("lerp number", lambda x, y: torch.lerp(x, y, 0.3), _X, t(5)),
    case("clamp", lambda x: x.clamp(-1, 1), _X),
    case("clamp tensors", lambda x, y: torch.clamp(x, max=y), _X, t(6, 1)),
    case("clamp_min", lambda x: x.clamp_min(0), _X),
    case("clamp_max", lambda x: x.clamp_max(0), _X),
    case("clip", lambda x: x.clip(-1, 1), _X),
    case("copy", lambda x, y: A.copy(x, y), _X, t(6, 1)),
    case("in place", _in_place, _X, t(6, 1)),
    case("broadcast_tensors", torch.broadcast_tensors, t(3, 1), t(4)),
    case("prelu", F.prelu, _X, t(6)),
    case("prelu of one", F.prelu, _X, t(1)),
    case("prelu of two dimensions", F.prelu, t(3, 6), t(6)),
    case("glu", lambda x: F.glu(x, 1), t(3, 8, 5)),
    case("glu negative", lambda x: F.glu(x, -2), t(3, 8, 5)),
    case("glu of a product", lambda x: F.glu(x.flatten(1)), t(3, 5, 4)),
    case("glu of an odd product", lambda x: F.glu(x.view(2, 2, 9).mT.flatten(1)), t(2, 18)),
    case("swiglu", lambda x: F.silu(x[..., :4]) * x[..., 4:], t(3, 8)),
    case("cumsum", lambda x: x.cumsum(1), _X, missed=True),
    case("cumprod", lambda x: x.cumprod(-1), _X),
    case("cummax", lambda x: x.cummax(1), _X),
    case("cummin", lambda x: x.cummin(1), _X),
    case("logcumsumexp", lambda x: x.logcumsumexp(1), _X),
    case("sort", lambda x: x.sort(1), _X),
    case("sort last", lambda x: x.sort(), _X),
    case("sort stable", lambda x: x.sort(dim=1, stable=True), _X),
    case("argsort", lambda x: x.argsort(1), _X),
    case("msort", torch.msort, _X),
    case("flip", lambda x: x.flip(1), _X),
    case("flip two", lambda x: x.flip([0, -1]), _X),
    case("fliplr", torch.fliplr, _X),
    case("flipud", torch.flipud, _X),
    case("roll", lambda x: x.roll(2, 1), _X),
    case("roll two", lambda x: x.roll((1, -1), (0, 2)), _X),
    case("roll flat", lambda x: x.roll(2), _X),
    case("diff", lambda x: x.diff(dim=1), _X),
    case("fill_diagonal", lambda x: (x * 2).fill_diagonal_(0), t(4, 4)),
    case("fill_diagonal, rectangular", lambda x: (x * 2).fill_diagonal_(0), t(3, 4)),
    case("tril", torch.tril, _X),
    case("triu", lambda x: x.triu(1), _X),
    *(
        case(f"{name} of a square, {k}", lambda x, n=name, k=k: getattr(x, n)(k), t(2, 5, 5))
        for name, k in (("tril", 0), ("tril", -1), ("tril", 1), ("triu", 1), ("triu", -1))
    ),
    case(
        "standardised weight",
        lambda w: (w - w.mean((1, 2), True)) / w.std((1, 2), keepdim=True),
        _X,
    ),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)
