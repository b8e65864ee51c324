"""Quantized arithmetic: scales and zero points for a whole tensor, or for each index."""

from __future__ import annotations

from graphprune.core.axes import length, split, unify
from graphprune.core.effect import Dims, Encoding
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

BLOCKS = "quantized in blocks"


@axis_rule("QuantizeLinear", "DequantizeLinear", elementwise=True)
def quantize(op: Site) -> list[Dims]:
    """One scale for all, for each index of a dimension, or for each block of them, which go whole.

    The last block may be shorter than the others; then all stay.
    """
    dims, at, block = op.dims(), op.axis("axis", default=1), op.attr("block_size", default=0)
    scales = [op.dims(i) for i in (1, 2) if op.has(i)]
    if block:
        blocks, rest = divmod(op.shape()[at], block)
        parts = None if rest else split(dims[at], (blocks, block))
        if parts is None:
            op.lock([dims[at], *(own[at] for own in scales)], BLOCKS)
        else:
            op.lock([parts[1]], BLOCKS)
            for own in scales:
                unify(parts[0], own[at])
        op.broadcast([[*own[:at], (), *own[at + 1 :]] for own in op.operands()])
    else:
        for own in scales:
            if len(own) == 1 and length(own[0]) > 1:
                unify(dims[at], own[0])
    made = op.op.type.endswith("::QuantizeLinear") or op.op.type == "QuantizeLinear"
    op.encode(0, 1, zero=2, dim=at, block=block, made=made)
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
    _, scale, zero = op.op.outputs
    op.effect.made[0] = Encoding((scale,), zero)
    return [op.dims(), [], []]


def along(op: Site, i: int, dim: str) -> str:
    """The pattern of a scale or zero point: one for all, or one for each index of a dimension."""
    if not op.has(i) or op.rank(i) == 0:
        return ""
    return dim if op.shape(i)[0] > 1 else "1"


@axis_rule("QLinearConv", "ConvInteger")
def conv(op: Site) -> str:
    """A convolution of integers."""
    g = f"g={op.attr('group', default=1)}"
    op.resize("group", "g")
    x, w, o = f"n ({g} i) *", f"({g} o) i *k", f"({g} o)"
    if op.op.type == "ConvInteger":
        op.encode(0, zero=2)
        op.encode(1, zero=3)
        return f"{x}, {w}, , {along(op, 3, o)} -> n {o} *s"
    op.encode(0, 1, zero=2)
    op.encode(3, 4, zero=5)
    op.encode(8, 1, 4)
    op.encode(0, 6, zero=7, made=True)
    one = [along(op, i, o) for i in (1, 2, 4, 5, 6, 7)]
    return f"{x}, {one[0]}, {one[1]}, {w}, {', '.join(one[2:])}, {o} -> n {o} *s"


@axis_rule("QLinearMatMul", "MatMulInteger")
def matmul(op: Site) -> str | list[Dims]:
    """A matrix product of integers."""
    whole = op.op.type == "MatMulInteger"
    weight = 1 if whole else 3
    if min(op.rank(0), op.rank(weight)) < 2:
        return op.opaque("vectors of integers")
    ours, theirs = ((2,), (3,)) if whole else ((1, 2), (4, 5))
    if any(op.has(i) and op.rank(i) > 1 for i in (*ours, *theirs)):
        return op.opaque("scales of several dimensions")
    rows, columns = (
        ", ".join(along(op, i, d) for i in at) for at, d in ((ours, "i"), (theirs, "j"))
    )
    if whole:
        op.encode(0, zero=2, dim=-2)
        op.encode(1, zero=3, dim=-1)
        return f"... i k, ... k j, {rows}, {columns} -> ... i j"
    op.encode(0, 1, zero=2, dim=-2)
    op.encode(3, 4, zero=5, dim=-1)
    op.encode(0, 6, zero=7, made=True)
    return f"... i k, {rows}, ... k j, {columns} -> ... i j"
