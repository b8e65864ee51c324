"""Elementwise operations, broadcasting, reductions and constructors."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tests.rules.tensors import Case, k, many, p, t

aten = torch.ops.aten


def _named(names: str) -> list:
    return [getattr(aten, name).default for name in names.split()]


CASES: dict[str, Case] = {
    "activations": (
        many(
            *(F.relu, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish),
            *(F.hardswish, F.hardsigmoid, F.hardtanh, F.logsigmoid, F.softplus, F.softsign),
            *(F.hardshrink, F.softshrink, F.tanhshrink, torch.sigmoid, torch.tanh),
            lambda x: F.threshold(x, 0.1, 2.0),
            lambda x: F.rrelu(x, training=False),
        ),
        (t(2, 5, 3),),
    ),
    "unary": (
        many(
            *_named("neg negative abs exp exp2 expm1 square sign sgn sin cos tan asinh sinh cosh"),
            *_named("atan erf erfc floor ceil round trunc frac nan_to_num isnan isinf isfinite"),
            *_named("positive conj resolve_conj resolve_neg clone alias detach lift lift_fresh"),
            *_named("zeros_like ones_like rand_like randn_like empty_like lift_fresh_copy"),
            *_named("bernoulli log_sigmoid logical_not"),
            lambda x: torch.full_like(x, 3.0),
            lambda x: aten.zero(x),
            lambda x: aten.fill.Scalar(x, 2.0),
            lambda x: x.contiguous(),
        ),
        (p(2, 5, 3),),
    ),
    "unary on (0, 1)": (
        many(
            *_named("log log2 log10 log1p sqrt rsqrt reciprocal asin acos atanh erfinv digamma"),
            *_named("lgamma logit"),
            lambda x: torch.acosh(x + 1),
        ),
        (p(4, 3),),
    ),
    "casts": (
        many(
            lambda x: x.to(torch.float64),
            lambda x: x.type_as(torch.zeros(3, dtype=torch.float64)),
            *(lambda x: x.float(), lambda x: x.double(), lambda x: x.half()),
            *(lambda x: x.bfloat16(), lambda x: x.int(), lambda x: x.long(), lambda x: x.bool()),
            lambda x: aten._to_copy.default(x, dtype=torch.float64),
        ),
        (t(4, 3),),
    ),
    "integers": (
        many(
            lambda a, b: ~a,
            *(lambda a, b: a & b, lambda a, b: a | b, lambda a, b: a ^ b),
            *(lambda a, b: a << b, lambda a, b: a >> b),
            *(aten.__and__.Tensor, aten.__or__.Tensor, aten.__xor__.Tensor),
            *(aten.__lshift__.Tensor, aten.__rshift__.Tensor),
            *(torch.bitwise_and, torch.bitwise_or, torch.bitwise_xor),
            *(torch.bitwise_left_shift, torch.bitwise_right_shift),
        ),
        (k(8, 4, 3), k(3, 3)),
    ),
    "dropout": (
        many(
            lambda x: F.dropout(x, 0.5, False),
            lambda x: F.dropout(x, 0.5, True),
            lambda x: F.dropout2d(x, 0.5, False),
            lambda x: F.alpha_dropout(x, 0.5, False),
            lambda x: F.feature_alpha_dropout(x, 0.5, False),
            lambda x: aten.native_dropout.default(x, 0.5, False),
        ),
        (t(2, 5, 3, 3),),
    ),
    "broadcast": (
        many(
            *(torch.add, torch.sub, torch.subtract, torch.rsub, torch.mul, torch.multiply),
            *(torch.div, torch.divide, torch.true_divide, torch.floor_divide, torch.remainder),
            *(torch.fmod, torch.pow, torch.float_power, torch.maximum, torch.minimum),
            *(torch.fmax, torch.fmin, torch.atan2, torch.hypot, torch.eq, torch.ne, torch.lt),
            *(torch.le, torch.gt, torch.ge, torch.logical_and, torch.logical_or),
            *(torch.logical_xor, torch.xlogy, torch.heaviside, torch.logaddexp, torch.isclose),
            *(torch.copysign, torch.max, torch.min, torch.clamp_min, torch.clamp_max),
            lambda a, b: aten.copy.default(a, b),
            lambda a, b: F.mse_loss(a, b.expand_as(a), reduction="none"),
        ),
        (p(2, 4, 3), p(4, 3)),
    ),
    "broadcast, three operands": (
        many(
            *(torch.addcmul, torch.addcdiv, torch.lerp),
            lambda a, b, c: torch.where(a > b, a, c),
            lambda a, b, c: torch.clamp(a, b, b + c),
            lambda a, b, c: torch.clip(a, 0.2, 0.5),
            lambda a, b, c: a.masked_fill(c > 0.5, 2.0),
        ),
        (p(2, 4, 3), p(2, 1, 3), p(2, 4, 1)),
    ),
    "broadcast of lengths of one": (lambda a, b, c: a * b + c, (t(4, 1), t(1, 6), t(2, 1, 1))),
    "scalars": (lambda x: 2 - x / 3 + x**2, (t(4, 3),)),
    "in place": (
        lambda x, y: x.clone().add_(y).mul_(2).relu_().clamp_(max=1.0).sub_(y) * y,
        (t(2, 4, 3), t(4, 1)),
    ),
    "in place on a slice": (
        lambda x, y: _filled_half(x.clone(), y) * 2,
        (t(2, 6), t(2, 3)),
    ),
    "prelu": (many(F.prelu, lambda x, w: F.prelu(x, w[:1])), (t(2, 5, 3), t(5))),
    "glu": (many(F.glu, lambda x: F.glu(x, 1)), (t(2, 6, 4),)),
    "ordered": (
        many(
            *(lambda x: x.cumsum(1), lambda x: x.cumprod(-1), lambda x: x.cummax(1)),
            *(lambda x: x.cummin(0), lambda x: x.sort(dim=1), lambda x: x.argsort(1)),
            *(lambda x: x.logcumsumexp(1), lambda x: x.diff(dim=1), torch.msort),
        ),
        (t(3, 4, 5),),
    ),
    "flip": (lambda x: x.flip(1), (t(3, 4, 5),)),
    "roll": (many(lambda x: x.roll(1, 1), lambda x: x.roll(2)), (t(3, 4, 5),)),
    "positions": (
        many(
            *(lambda x: x.topk(2, 1), lambda x: torch.bucketize(x, torch.tensor([0.0, 1.0]))),
            *(torch.tril, torch.triu, lambda x: x.kthvalue(2, 1), lambda x: x.argmax(1)),
            *(lambda x: x.argmin(), lambda x: x.mode(1), lambda x: x.median(1)),
        ),
        (t(3, 4, 5),),
    ),
    "one_hot": (lambda x: F.one_hot(x, 5), (k(5, 3, 4),)),
    "sum": (
        many(
            *(lambda x: x.sum(), lambda x: x.sum(1), lambda x: x.sum((0, -1), keepdim=True)),
            lambda x: x.nansum(1),
        ),
        (t(3, 4, 5),),
    ),
    "reduced": (
        many(
            *(lambda x: x.mean(1), lambda x: x.mean(), lambda x: x.amax((1, 2)), torch.max),
            *(lambda x: x.amin(-1, True), lambda x: x.max(1), lambda x: x.min(1, True)),
            *(lambda x: x.prod(1), lambda x: x.var(1), lambda x: x.std((1, 2), keepdim=True)),
            *(lambda x: torch.var_mean(x, 1), lambda x: torch.std_mean(x, 0)),
            *(lambda x: x.logsumexp(1), lambda x: aten.norm.ScalarOpt_dim(x, 2, [1])),
            *(lambda x: torch.linalg.vector_norm(x, dim=1), lambda x: (x > 0).any(1)),
            lambda x: (x > 0).all(),
        ),
        (t(3, 4, 5),),
    ),
    "constructors": (
        lambda x: (
            x + torch.zeros(3, 4) + x.new_zeros(4) + torch.full((3, 1), 2.0) + torch.ones(3, 4),
            x * torch.rand(3, 4) + torch.randn(4) + x.new_ones(3, 4) + x.new_full((4,), 1.0),
            (x > 0) & (torch.empty(3, 4) > x.new_empty(3, 4)),
            aten.empty_permuted.default([3, 4], [0, 1]) + x,
        ),
        (t(3, 4),),
    ),
    "positions made": (
        lambda x: (
            x + torch.arange(4) + torch.linspace(0, 1, 4) + torch.logspace(0, 1, 4),
            x @ torch.eye(4) * torch.hann_window(4),
        ),
        (t(3, 4),),
    ),
    "scalar tensors": (
        lambda x: (x * aten.scalar_tensor.default(2.0), aten._assert_async.default(x.sum() < 1e9)),
        (t(3, 4),),
    ),
}


def _filled_half(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x[:, 3:].mul_(y)
    return x
