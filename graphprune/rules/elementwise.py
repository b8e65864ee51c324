"""Operations that act on each element by itself."""

from __future__ import annotations

from graphprune.core.axes import cut, unify
from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

_UNARY = """
    relu relu6 leaky_relu elu celu selu gelu silu mish hardswish hardsigmoid hardtanh sigmoid
    log_sigmoid tanh softplus hardshrink softshrink threshold rrelu neg negative abs exp exp2 sinc
    absolute fix expm1 log log2 log10 log1p sqrt rsqrt square
    reciprocal sign sgn sin cos tan asin acos atan sinh cosh asinh acosh atanh erf erfc erfinv
    digamma lgamma floor ceil round trunc frac logit nan_to_num bitwise_not logical_not isnan
    isinf isfinite zero fill conj resolve_conj resolve_neg zeros_like ones_like full_like
    deg2rad rad2deg signbit isposinf isneginf conj_physical frexp polygamma mvlgamma i0
    special_i0e special_i1 special_i1e special_entr special_erfcx special_log_ndtr special_ndtri
    special_airy_ai special_bessel_j0 special_bessel_j1 special_bessel_y0 special_bessel_y1
    special_modified_bessel_i0 special_modified_bessel_i1 special_modified_bessel_k0
    special_modified_bessel_k1 special_scaled_modified_bessel_k0
    special_scaled_modified_bessel_k1 special_spherical_bessel_j0
"""

_COPIED = "clone lift_fresh_copy lift_fresh lift _to_copy type_as positive"
_SHARED = "contiguous alias detach to"
_DROPPED = "dropout feature_dropout alpha_dropout feature_alpha_dropout"
_DRAWN = """
    normal uniform randint_like bernoulli rand_like randn_like native_dropout poisson exponential
    log_normal cauchy geometric random
"""

_BROADCAST = """
    floor_divide remainder fmod pow
    float_power maximum minimum fmax fmin atan2 hypot arctan2 logaddexp2 greater greater_equal
    less less_equal not_equal eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and
    bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift __and__ __or__ __xor__
    __lshift__ __rshift__ where masked_fill addcmul addcdiv lerp clamp clamp_min clamp_max clip
    copy xlogy heaviside logaddexp isclose copysign ldexp gcd lcm igamma igammac nextafter
    special_xlog1py special_zeta special_hermite_polynomial_h special_hermite_polynomial_he
    special_laguerre_polynomial_l special_legendre_polynomial_p special_chebyshev_polynomial_t
    special_chebyshev_polynomial_u special_chebyshev_polynomial_v special_chebyshev_polynomial_w
    special_shifted_chebyshev_polynomial_t special_shifted_chebyshev_polynomial_u
    special_shifted_chebyshev_polynomial_v special_shifted_chebyshev_polynomial_w
"""

_ONNX_UNARY = """
    Relu LeakyRelu ThresholdedRelu Elu Celu Selu Gelu Mish HardSwish HardSigmoid Sigmoid Swish Tanh
    Softplus Softsign Shrink Neg Abs Exp Log Sqrt Reciprocal Sign Sin Cos Tan Asin Acos Atan Sinh
    Cosh Asinh Acosh Atanh Erf Floor Ceil Round Not BitwiseNot IsNaN IsInf Clip
"""

_ONNX_BROADCAST = """
    Pow Mod Max Min Mean And Or Xor Equal Greater Less GreaterOrEqual
    LessOrEqual BitShift BitwiseAnd BitwiseOr BitwiseXor Where PRelu
"""


def _aten(names: str) -> list[str]:
    return [f"aten.{name}" for name in names.split()]


@axis_rule("aten.empty_like", elementwise=True, blank=True)
@axis_rule(
    *_aten(_DRAWN),
    *"Bernoulli RandomNormalLike RandomUniformLike".split(),
    elementwise=True,
    random=True,
)
@axis_rule(*_aten(_DROPPED), "Dropout", elementwise=True, random=True, view=True)
@axis_rule(*_aten(_SHARED), "Identity", elementwise=True, view=True, does="copy")
@axis_rule(*_aten(_COPIED), "Cast", "CastLike", elementwise=True, does="copy")
@axis_rule(*_aten(_UNARY), *_ONNX_UNARY.split(), elementwise=True)
def unary(op: Site) -> list[Dims]:
    """One operand matters; a second one (`type_as`, a fill value) lends only its type."""
    return [op.dims()] * len(op.op.outputs)


@axis_rule("aten.add", "Add", "Sum", elementwise=True, does="add")
@axis_rule("aten.mul", "aten.multiply", "Mul", elementwise=True, does="multiply")
@axis_rule("aten.sub", "aten.subtract", "aten.rsub", "Sub", elementwise=True, does="subtract")
@axis_rule(*_aten("div divide true_divide"), "Div", elementwise=True, does="divide")
@axis_rule(*_aten(_BROADCAST), *_ONNX_BROADCAST.split(), elementwise=True)
def broadcast(op: Site) -> list[Dims]:
    """Operands aligned from the right share their dimensions."""
    return [op.broadcast(op.operands())]


@axis_rule("aten.broadcast_tensors", elementwise=True)
def broadcast_tensors(op: Site) -> list[Dims]:
    """Every operand at the shape of all."""
    return [op.broadcast(op.operands())] * len(op.op.outputs)


@axis_rule("aten.prelu", elementwise=True)
def prelu(op: Site) -> str | list[Dims]:
    """A slope for each channel, or one for all."""
    return [op.dims()] if op.shape(1) in ((), (1,)) else "n c ..., c -> n c ..."


@axis_rule("aten.isin")
def isin(op: Site) -> list[Dims]:
    """Whether each element is among some numbers, all of which are compared with."""
    if op.has(1):
        op.lock(op.dims(1), "numbers compared with")
    return [op.dims()]


@axis_rule("aten.glu")
def glu(op: Site) -> list[Dims]:
    """Gated linear unit: the halves of a dimension are multiplied, hence coupled."""
    at = op.axis(default=-1)
    half = op.shape()[at] // 2
    dims = op.dims()
    left, right = cut(dims[at], half)
    unify(left, right, f"sizes do not divide at {op.op.name}")
    return [[*dims[:at], left, *dims[at + 1 :]]]


_ORDERED = "cumsum cumprod cummax cummin sort argsort flip roll logcumsumexp"


@axis_rule(*(f"aten.{name}" for name in _ORDERED.split()), "CumSum", "CumProd")
def ordered(op: Site) -> list[Dims]:
    """Results depend on the order along a dimension (all of them where none is named)."""
    given = op.attr("dim", "dims", "axis", default=-1)
    at = list(given) if isinstance(given, list | tuple) else [given]
    dims = op.dims()
    op.lock([dims[d] for d in at] if at else dims, "order matters")
    return [dims] * len(op.op.outputs)


@axis_rule("aten.msort", "aten.flipud", "aten.fliplr")
def reordered(op: Site) -> list[Dims]:
    """As above, along a dimension that the name tells: the first, or for `fliplr` the second."""
    at = int(op.op.type == "aten.fliplr")
    op.lock(op.dims()[at : at + 1], "order matters")
    return [op.dims()]


@axis_rule("aten.diff")
def diff(op: Site) -> list[Dims]:
    """Neighbours along a dimension are subtracted."""
    if len(op.op.inputs) > 1 and (op.has(1) or op.has(2)):
        return op.opaque("order matters")
    at, dims = op.axis(default=-1), op.dims()
    op.lock([dims[at]], "order matters")
    return [[*dims[:at], op.fresh(why="order matters")[at], *dims[at + 1 :]]]


@axis_rule("aten.tril", "aten.triu", "Trilu")
def triangle(op: Site) -> list[Dims]:
    """A triangle relates the positions of the last two dimensions.

    Of a square with or without its diagonal, the same indices can go from both: those that stay
    keep their order.
    """
    dims, shape = op.dims(), op.shape()
    lower = op.op.type == "aten.tril" or op.attr("upper", default=1) == 0
    beside = None if op.has(1) else op.attr("diagonal", default=0)
    if shape[-1] == shape[-2] and beside in ((0, -1) if lower else (0, 1)):
        side = op.broadcast([dims[-2:-1], dims[-1:]])
        return [[*dims[:-2], *side, *side]]
    op.lock(dims[-2:], "positions taken")
    return [dims]


@axis_rule("aten.fill_diagonal")
def diagonal_filled(op: Site) -> list[Dims]:
    """Of a square the same indices can go from both dimensions."""
    dims, shape = op.dims(), op.shape()
    if len(shape) == 2 and shape[0] == shape[1]:
        side = op.broadcast([dims[:1], dims[1:]])
        return [[*side, *side]]
    return op.opaque("positions taken")
