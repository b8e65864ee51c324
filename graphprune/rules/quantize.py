"""Quantized arithmetic: scales and zero points for a whole tensor, or for each index."""

from __future__ import annotations

from graphprune.core.axes import unify
from graphprune.core.effect import Dims
from graphprune.rules.notation import parse
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

INTEGERS = "its weight holds integers: what is solved for are floats, as in the float or a QDQ file"
"""Why the weight of an operation on integers stays as it was cut."""


@axis_rule("QuantizeLinear", "DequantizeLinear", elementwise=True)
def quantize(op: Site) -> list[Dims]:
    """One scale for all, or one for each index of a dimension; blocks of indices stay."""
    dims = op.dims()
    if op.attr("block_size", default=0):
        at = op.axis("axis", default=1)
        op.lock([dims[at], *(op.dims(i)[at] for i in (1, 2) if op.has(i))], "quantized in blocks")
        op.broadcast([[*own[:at], (), *own[at + 1 :]] for own in op.operands()])
        return [dims]
    for i in (1, 2):
        if op.has(i) and op.rank(i) == 1 and op.shape(i)[0] > 1:
            unify(dims[op.axis("axis", default=1)], op.dims(i)[0])
    if op.op.type == "DequantizeLinear":
        op.zero(0, 2, op.axis("axis", default=1), scale=1)
    return [dims]


_TENSOR = """
    fake_quantize_per_tensor_affine fake_quantize_per_tensor_affine_cachemask
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
    _fake_quantize_learnable_per_tensor_affine
"""
_CHANNEL = """
    fake_quantize_per_channel_affine fake_quantize_per_channel_affine_cachemask
    _fake_quantize_learnable_per_channel_affine
"""


@axis_rule(*(f"aten.{name}" for name in _TENSOR.split()))
def fake_quantize(op: Site) -> list[Dims]:
    """Rounding to the steps of integers, each element by itself (Jacob et al. 2018)."""
    return [op.dims()] * len(op.op.outputs)


@axis_rule(*(f"aten.{name}" for name in _CHANNEL.split()))
def fake_quantize_channels(op: Site) -> list[Dims]:
    """The same, with a scale and zero point for each index of a dimension."""
    at = op.axis("axis")
    for i in (1, 2):
        unify(op.dims()[at], op.dims(i)[0])
    return [op.dims()] * len(op.op.outputs)


@axis_rule("aten.fused_moving_avg_obs_fake_quant", "aten._fused_moving_avg_obs_fq_helper")
def observed_fake_quantize(op: Site) -> list[Dims]:
    """The same, with scales that follow from running extremes, of a tensor or of each channel."""
    dims, at = op.dims(), op.axis("ch_axis")
    rows = bool(op.attr("per_row_fake_quant", default=False))
    for i in range(3, 7) if rows else ():  # extremes, scale and zero point of each channel
        if op.shape(i) == op.shape()[at : at + 1]:
            unify(dims[at], op.dims(i)[0])
    op.mix(*(dim for number, dim in enumerate(dims) if not rows or number != at))
    return [dims] * len(op.op.outputs)


@axis_rule("DynamicQuantizeLinear")
def dynamic_quantize(op: Site) -> list[Dims]:
    """The scale follows from the extremes of the whole tensor."""
    op.mix(*op.dims())
    return [op.dims(), [], []]


def _along(op: Site, i: int, dim: str) -> str:
    """The pattern of a scale or zero point: one for all, or one for each index of a dimension."""
    if not op.has(i) or op.rank(i) == 0:
        return ""
    return dim if op.shape(i)[0] > 1 else "1"


@axis_rule("QLinearConv", "ConvInteger")
def conv(op: Site) -> str:
    """A convolution of integers."""
    op.nonlinear = INTEGERS
    g = f"g={op.attr('group', default=1)}"
    op.resize("group", "g")
    x, w, o = f"n ({g} i) *", f"({g} o) i *k", f"({g} o)"
    if op.op.type == "ConvInteger":
        op.zero(0, 2)
        op.zero(1, 3)
        return f"{x}, {w}, , {_along(op, 3, o)} -> n {o} *s"
    op.zero(0, 2, scale=1)
    op.zero(3, 5, scale=4)
    one = [_along(op, i, o) for i in (1, 2, 4, 5, 6, 7)]
    return f"{x}, {one[0]}, {one[1]}, {w}, {', '.join(one[2:])}, {o} -> n {o} *s"


@axis_rule("QLinearMatMul", "MatMulInteger")
def matmul(op: Site) -> list[Dims]:
    """A matrix product of integers."""
    op.nonlinear = INTEGERS
    at = (0, 1) if op.op.type == "MatMulInteger" else (0, 3)
    if min(op.rank(i) for i in at) < 2:
        return op.opaque("vectors of integers")
    if at[1] == 1:
        op.zero(0, 2, -2)
        op.zero(1, 3, -1)
    else:
        op.zero(0, 2, -2, scale=1)
        op.zero(3, 5, -1, scale=4)
    gap = ", " * (at[1] - 1)
    (out,) = op.apply(parse(f"... i k, {gap}... k j -> ... i j"))
    scales = ((2, out[-2]), (3, out[-1])) if at[1] == 1 else ((1, out[-2]), (2, out[-2]))
    more = () if at[1] == 1 else ((4, out[-1]), (5, out[-1]))
    for i, dim in (*scales, *more):
        if op.has(i) and op.rank(i) and op.shape(i)[0] > 1:
            if op.rank(i) > 1:
                return op.opaque("scales of several dimensions")
            unify(dim, op.dims(i)[0])
    return [out]
