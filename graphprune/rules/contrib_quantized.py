"""Quantized operations of ONNX Runtime (domain `com.microsoft`)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from graphprune.core.axes import Dim, concat, length, split, unify
from graphprune.core.effect import Dims
from graphprune.rules.contrib import heads_of
from graphprune.rules.quantize import BLOCKS, along, quantize
from graphprune.rules.quantize import conv as integer_conv
from graphprune.rules.recurrent import gated, state_both_sides
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

_PREFIX = "com.microsoft::"


def _each(op: Site, place: int, dim: Dim) -> None:
    """A scale or zero point: one for all, or one for each index of a dimension."""
    if op.has(place) and op.rank(place) and op.shape(place)[-1] > 1:
        unify(dim, op.dims(place)[-1], f"sizes do not divide at {op.op.name}")


@axis_rule(f"{_PREFIX}QuantizeLinear", f"{_PREFIX}DequantizeLinear", elementwise=True)
def linear(op: Site) -> list[Dims]:
    """As ONNX's own, for types that it had not."""
    return quantize(op)


@axis_rule(f"{_PREFIX}QLinearConv")
def conv(op: Site) -> str | list[Dims]:
    """As ONNX's own; the channels may be last."""
    if op.attr("channels_last", default=0):
        return op.opaque("channels last")
    return integer_conv(op)


@axis_rule(f"{_PREFIX}QLinearAveragePool")
def average_pool(op: Site) -> str | list[Dims]:
    """The mean of each window of a channel."""
    if op.attr("channels_last", default=0):
        return op.opaque("channels last")
    return "n c * -> n c *"


@axis_rule(f"{_PREFIX}QLinearConcat")
def joined(op: Site) -> list[Dims]:
    """Operands with a scale and a zero point behind each; those of the result stand first."""
    operands = [op.dims(place) for place in range(2, len(op.op.inputs), 3)]
    at = op.axis("axis", default=0, rank=len(operands[0]))
    out = op.broadcast([[*dims[:at], (), *dims[at + 1 :]] for dims in operands])
    return [[*out[:at], concat([dims[at] for dims in operands]), *out[at + 1 :]]]


@axis_rule(f"{_PREFIX}QLinearSoftmax")
def softmax(op: Site) -> list[Dims]:
    """Softmax; before opset 13 over all dimensions from the axis on."""
    at = op.axis("axis", default=-1)
    old = op.attr("opset", default=13) < 13
    op.mix(*op.dims()[at : None if old else at + 1])
    return [op.dims()]


@axis_rule(f"{_PREFIX}QLinearReduceMean")
def mean(op: Site) -> list[Dims]:
    """The mean over dimensions."""
    x, rank = op.dims(), op.rank()
    axes = {at % rank for at in op.attr("axes", default=list(range(rank)))}
    op.mix(*(x[at] for at in axes))
    kept = op.attr("keepdims", default=1)
    return [[() if at in axes else dim for at, dim in enumerate(x) if kept or at not in axes]]


@axis_rule(f"{_PREFIX}QLinearWhere")
def where(op: Site) -> list[Dims]:
    """A condition and two operands, each with a scale and a zero point."""
    return [op.broadcast([op.dims(0), op.dims(1), op.dims(4)])]


@axis_rule(f"{_PREFIX}MatMulIntegerToFloat", f"{_PREFIX}DynamicQuantizeMatMul")
def matmul(op: Site) -> str | list[Dims]:
    """A product of integers with its scales, and a bias; the first may be quantized on the way."""
    if min(op.rank(0), op.rank(1)) < 2:
        return op.opaque("vectors of integers")
    dynamic = op.op.type.endswith("DynamicQuantizeMatMul")
    scale, point, bias = (2, 3, 4) if dynamic else (3, 5, 6)
    if any(op.has(place) and op.rank(place) > 1 for place in (scale, point)):
        return op.opaque("scales of several dimensions")
    op.encode(1, scale, zero=point, dim=-1)
    steps = ", ".join(along(op, place, "j") for place in (scale, point))
    added = op.aligned(bias, "i j") if not op.has(bias) or op.rank(bias) < 3 else "... i j"
    if dynamic:
        op.mix(op.dims(0)[-1])
        return f"... i k, ... k j, {steps}, {added} -> ... i j"
    if op.has(2) and op.rank(2) and op.shape(2)[-1] > 1:
        return op.opaque("a scale for each row")
    op.encode(0, 2, zero=4, dim=-2)
    ours, theirs = (along(op, place, "i") for place in (2, 4)), steps.split(", ")
    each = [part for pair in zip(ours, theirs, strict=True) for part in pair]
    return f"... i k, ... k j, {', '.join(each)}, {added} -> ... i j"


@axis_rule(f"{_PREFIX}MatMulNBits")
def packed_matmul(op: Site) -> list[Dims]:
    """A product with a weight of few bits: `outputs x blocks x bytes`, scaled block by block.

    Rows of outputs can go, and whole blocks of what is read; of blocks whose zero points stand in
    one byte, all or none.
    """
    x, outputs, size = op.dims(), op.attr("N"), op.attr("block_size")
    number, rest = divmod(op.attr("K"), size)
    each = _blocks_in_a_byte(op)
    parts = None if rest or number % each else split(x[-1], (number // each, each, size))
    if parts is None:
        op.lock([x[-1]], BLOCKS)
        parts = [(), (), ()]
    op.lock(parts[1:], BLOCKS)
    op.contract(parts[0])
    out = _packed_outputs(op, outputs, parts, number)
    if out is None:
        return op.opaque(BLOCKS)
    if op.has(4):
        op.lock([*op.dims(4), parts[0]], BLOCKS)
    elif not rest:
        op.pack(1, [out, x[-1]], 2, 3, 5, op.attr("bits", default=4), size)
    if op.has(5):
        unify(out, op.dims(5)[-1])
    op.resize("N", out)
    op.resize("K", x[-1])
    op.effect.macs = [(*x, out)]
    return [[*x[:-1], out]]


def _blocks_in_a_byte(op: Site) -> int:
    """Of how many blocks the zero points stand in one byte."""
    blocks = op.attr("N") * -(-op.attr("K") // op.attr("block_size"))
    bits: int = op.attr("bits", default=4)
    return 1 if not op.has(3) or prod(op.shape(3)) == blocks else 8 // bits


def _packed_outputs(op: Site, outputs: int, parts: Sequence[Dim], number: int) -> Dim | None:
    """Let the weight, its scales and its zero points hold the same outputs and blocks."""
    out: Dim | None = None
    for place in (at for at in range(1, 4) if op.has(at)):
        first, *behind = op.dims(place)
        own = split(first, (outputs, max(length(first) // outputs, 1)))
        if own is None or length(first) % outputs:
            return None
        if out is None:
            out = own[0]
        else:
            unify(out, own[0], f"sizes do not divide at {op.op.name}")
        dims = [own[1], *behind[:-1]] if place == 1 else [own[1], *behind]
        op.lock(behind[-1:] if place == 1 else [], BLOCKS)
        blocks = next((dim for dim in dims if length(dim) > 1), ())
        wanted = (parts[0], parts[1]) if length(blocks) == number else (parts[0], ())
        found = split(blocks, [length(part) for part in wanted])
        if found is None or prod(map(length, wanted)) != length(blocks):
            op.lock([blocks, parts[0]], BLOCKS)
        else:
            unify(found[0], parts[0], f"sizes do not divide at {op.op.name}")
            op.lock(found[1:], BLOCKS)
    return out


@axis_rule(f"{_PREFIX}MatMulBnb4")
def normal_matmul(op: Site) -> list[Dims]:
    """A product with a weight of four bits in a row, scaled block by block; rows of outputs go."""
    x, outputs = op.dims(), op.attr("N")
    op.lock([x[-1]], BLOCKS)
    out = _packed_outputs(op, outputs, [(), (), ()], 1)
    if out is None:
        return op.opaque(BLOCKS)
    op.resize("N", out)
    op.effect.macs = [(*x, out)]
    return [[*x[:-1], out]]


@axis_rule(f"{_PREFIX}QAttention", activated=True)
def attention(op: Site) -> list[Dims]:
    """Self-attention with its projection, both of integers."""
    if op.has(8) or len(op.op.outputs) > 1 or op.attr("do_rotary", default=0):
        return op.opaque("keys and values of their own")
    parts = heads_of(op)
    if parts is None:
        return op.opaque("heads do not divide")
    _, h, d = parts
    (b, s, i), (_, packed) = op.dims(0), op.dims(1)
    for place in (2, 4, 7):  # the bias, and what belongs to the weight
        _each(op, place, packed)
    op.encode(0, 3, zero=6)
    op.encode(1, 4, zero=7, dim=1)
    op.lock([s, *(op.dims(5) if op.has(5) else ())], "positions compared")
    op.contract(i)
    op.mix(d)
    if not op.attr("scale", default=0.0):
        op.pin("scale", length(d) ** -0.5, d)
    op.resize("num_heads", h)
    op.effect.macs = [(b, s, i, packed), (b, h, s, s, d), (b, h, s, s, d)]
    return [[b, s, h + d]]


@axis_rule(f"{_PREFIX}DynamicQuantizeLSTM", recurrent=True, partial=True)
def dynamic_lstm(op: Site) -> list[Dims]:
    """An LSTM of 8-bit weights, `directions x inputs x gates`.

    Inputs and states are quantized on the way, by their extremes.
    """
    x, weight, recurrence = op.dims(0), op.dims(1), op.dims(2)
    op.lock([x[0]], "steps in order")
    stacked = (1, 2, 3, 7, 8, 9, 10, 11)
    op.lock([op.dims(i)[0] for i in stacked if op.has(i) and op.rank(i)], "directions")
    hidden = gated(op, weight[2], 4)
    unify(hidden, gated(op, recurrence[2], 4))
    unify(hidden, recurrence[1])
    unify(weight[1], x[2])
    for i, blocks in ((3, 8), (7, 3)):
        if op.has(i):
            unify(hidden, gated(op, op.dims(i)[1], blocks))
    for i in (8, 9, 10, 11):  # for each direction, or for each gate of each unit too
        if op.has(i) and op.rank(i) == 2 and op.shape(i)[1] > 1:
            unify(hidden, gated(op, op.dims(i)[1], 4))
    op.encode(1, 8, zero=9)
    op.encode(2, 10, zero=11)
    state: Dims = [weight[0], x[1], hidden]
    op.broadcast([state, *(op.dims(i) for i in (5, 6) if op.has(i))])
    if op.has(4):
        unify(x[1], op.dims(4)[0])
    state_both_sides(op, "d i g")
    op.contract(x[2], hidden)
    op.mix(x[2], hidden)
    op.effect.macs = [(*x[:2], *weight), (*x[:2], *recurrence)]
    op.resize("hidden_size", hidden)
    return [[x[0], *state] if len(value.shape) == 4 else state for value in op.op.outputs]


@axis_rule(f"{_PREFIX}QGemm")
def gemm(op: Site) -> str:
    """ONNX Runtime's `Gemm` of integers: A, B and C, scales and zero points behind A and B.

    C stands for `alpha` times what its own scales say: it is a bias of A B itself.
    """
    a = "k i" if op.attr("transA", default=0) else "i k"
    b = "j k" if op.attr("transB", default=0) else "k j"
    op.encode(0, 1, zero=2)
    op.encode(3, 4, zero=5, dim=0 if op.attr("transB", default=0) else 1)
    op.encode(6, 1, 4)
    if op.has(7):
        op.encode(0, 7, zero=8, made=True)
    one = [along(op, place, dim) for place, dim in ((1, "1"), (2, "1"), (4, "j"), (5, "j"))]
    return f"{a}, {one[0]}, {one[1]}, {b}, {one[2]}, {one[3]}, {op.aligned(6, 'i j')} -> i j"


@axis_rule(f"{_PREFIX}QLinearAdd", f"{_PREFIX}QLinearMul")
def broadcast(op: Site) -> list[Dims]:
    """Two operands, each with one scale and zero point for all."""
    return [op.broadcast([op.dims(0), op.dims(3)])]


@axis_rule(*(f"{_PREFIX}QLinear{name}" for name in ("LeakyRelu", "Sigmoid")))
def unary(op: Site) -> list[Dims]:
    """Each element by itself, one scale and zero point for all."""
    return [op.dims()]


@axis_rule(f"{_PREFIX}QLinearGlobalAveragePool")
def global_pool(op: Site) -> list[Dims]:
    """The mean over all positions of a channel."""
    if op.attr("channels_last", default=0):
        return op.opaque("channels last")
    op.lock(op.dims()[2:], "consumed by a window")
    return [[*op.dims()[:2], *op.fresh()[2:]]]
