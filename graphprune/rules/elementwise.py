"""Operations that act on each element by itself."""

from __future__ import annotations

from graphprune.axes import cut, unify
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Dims, Site

_UNARY = """
    relu relu6 leaky_relu elu celu selu gelu silu mish hardswish hardsigmoid hardtanh
    sigmoid log_sigmoid tanh softplus softsign hardshrink softshrink tanhshrink threshold
    rrelu neg negative abs exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square reciprocal
    sign sgn sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc erfinv digamma
    lgamma floor ceil round trunc frac logit nan_to_num bitwise_not logical_not isnan isinf
    isfinite dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout
    bernoulli clone contiguous alias detach lift_fresh_copy lift_fresh lift to _to_copy zero
    fill type_as positive float double half bfloat16 int long bool conj resolve_conj
    resolve_neg zeros_like ones_like full_like empty_like rand_like randn_like
""".split()

_BROADCAST = """
    add sub subtract rsub mul multiply div divide true_divide floor_divide remainder fmod
    pow float_power maximum minimum fmax fmin atan2 hypot eq ne lt le gt ge logical_and
    logical_or logical_xor bitwise_and bitwise_or bitwise_xor bitwise_left_shift
    bitwise_right_shift __and__ __or__ __xor__ __lshift__ __rshift__ where masked_fill
    addcmul addcdiv lerp clamp clamp_min clamp_max clip copy xlogy heaviside logaddexp
    isclose copysign mse_loss
""".split()


@axis_rule(*(f"aten.{name}" for name in _UNARY))
def unary(op: Site) -> list[Dims]:
    """One operand matters; a second one (`type_as`, a fill value) lends only its type."""
    return [op.dims()] * len(op.op.outputs)


@axis_rule(*(f"aten.{name}" for name in _BROADCAST))
def broadcast(op: Site) -> list[Dims]:
    """Operands aligned from the right share their dimensions."""
    return [op.broadcast(op.operands())]


@axis_rule("aten.broadcast_tensors")
def broadcast_tensors(op: Site) -> list[Dims]:
    """Every operand at the shape of all."""
    return [op.broadcast(op.operands())] * len(op.op.outputs)


@axis_rule("aten.prelu")
def prelu(op: Site) -> str | list[Dims]:
    """A slope for each channel, or one for all."""
    return [op.dims()] if op.shape(1) in ((), (1,)) else "n c ..., c -> n c ..."


@axis_rule("aten.glu")
def glu(op: Site) -> list[Dims]:
    """Gated linear unit: the halves of a dimension are multiplied, hence coupled."""
    at = op.axis(default=-1)
    half = op.shape()[at] // 2
    dims = op.dims()
    left, right = cut(dims[at], half)
    unify(left, right, f"sizes do not divide at {op.op.name}")
    return [[*dims[:at], left, *dims[at + 1 :]]]


_ORDERED = "cumsum cumprod cummax cummin sort argsort flip roll diff logcumsumexp msort"


@axis_rule(*(f"aten.{name}" for name in _ORDERED.split()))
def ordered(op: Site) -> list[Dims]:
    """Results depend on the order along a dimension (all of them where none is named)."""
    given = op.attr("dim", "dims", default=-1)
    at = list(given) if isinstance(given, list | tuple) else [given]
    dims = op.dims()
    if op.out_shape() != op.shape():
        return op.opaque("order matters")
    op.lock([dims[d] for d in at] if at else dims, "order matters")
    return [dims] * len(op.op.outputs)


@axis_rule("aten.topk", "aten.unique_dim", "aten.one_hot", "aten.bucketize")
def selected(op: Site) -> list[Dims]:
    """Results whose length has nothing to do with the operand's."""
    return op.opaque(f"{op.op.type} takes positions")


@axis_rule("aten.tril", "aten.triu")
def triangle(op: Site) -> list[Dims]:
    """A triangle relates the positions of the last two dimensions."""
    op.lock(op.dims()[-2:], "positions taken")
    return [op.dims()]
