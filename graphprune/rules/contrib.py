"""Fused operations of ONNX Runtime (domain `com.microsoft`), as its optimiser writes them."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.core.axes import Dim, length, split
from graphprune.core.effect import Dims
from graphprune.rules.conv import conv
from graphprune.rules.matmul import scaled
from graphprune.rules.notation import parse
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Bound, Site

_PREFIX = "com.microsoft::"


@axis_rule(
    *(f"{_PREFIX}{name}" for name in ("Gelu", "FastGelu", "BiasGelu", "QuickGelu")),
    elementwise=True,
)
def gelu(op: Site) -> list[Dims]:
    """Gaussian error linear units, some with a bias before them."""
    return [op.broadcast(op.operands())]


@axis_rule(f"{_PREFIX}FusedMatMul", f"{_PREFIX}TransposeMatMul")
def fused_matmul(op: Site) -> list[Dims]:
    """A product of matrices, either of them transposed on demand."""
    if op.attr("transBatchA", default=0) or op.attr("transBatchB", default=0):
        return op.opaque("batches transposed")
    a = "k i" if op.attr("transA", default=0) else "i k"
    b = "j k" if op.attr("transB", default=0) else "k j"
    if min(op.rank(0), op.rank(1)) < 2:
        return op.opaque("a vector")
    scaled(op)
    return op.apply(parse(f"... {a}, ... {b} -> ... i j"))


@axis_rule(f"{_PREFIX}FusedConv", activated=True)
def fused_conv(op: Site) -> list[Dims]:
    """A convolution, what is added to it, and an activation."""
    text = conv(op)
    found = op.apply(parse(text))
    if not op.has(3):
        return found
    operands, _, result = text.partition("->")
    product = parse(f"{operands}, n -> {result}")  # it meets the result place by place
    op.products.append(Bound(product, tuple(op.op.inputs[:4]), op.products.pop().sizes))
    return [op.broadcast([found[0], op.dims(3)])]


@axis_rule(f"{_PREFIX}MoE", linear=False)
def experts(op: Site) -> list[Dims]:
    """Experts that each token chooses: two layers each, or three where a gate has its own.

    Gates within the first layer stand beside their values (`swiglu_fusion` 1), or ahead of all.
    """
    inner, fixed = {1: ("(i p=2)", "e p"), 2: ("(p=2 i)", "e p")}.get(
        op.attr("swiglu_fusion", default=0), ("i", "e")
    )
    layers = f"e {inner} h, e {inner}, e h i, e h, e i h, e i"
    found = op.apply(parse(f"... h, * e, {layers} -> ... h"), locks=fixed)
    op.contract(op.dims()[-1])
    return found


@axis_rule(
    f"{_PREFIX}SkipLayerNormalization",
    f"{_PREFIX}SkipSimplifiedLayerNormalization",
    norm=True,
    partial=True,
)
def skip_layer_norm(op: Site) -> list[Dims]:
    """A sum, normalised over its last dimension; the sum itself is the last result."""
    out = op.broadcast(op.operands())
    op.mix(out[-1])
    shapes = (value.shape for value in op.op.outputs)
    return [out if shape[-1:] == op.shape()[-1:] else [*out[:-1], ()] for shape in shapes]


def heads_of(op: Site) -> Sequence[Dim] | None:
    """The parts of an attention's own projection: queries, keys and values; heads; head_dim.

    None where the heads do not divide.
    """
    heads = op.attr("num_heads")
    (_, _, i), (i2, packed) = op.dims(0), op.dims(1)
    parts = split(packed, (3, heads, length(packed) // (3 * heads)))
    if parts is not None:
        op.lock([parts[0]], "queries, keys and values")
        op.broadcast([[i], [i2]])
        bias = op.op.inputs[2] if op.has(2) else None
        op.state("... i, i p, p -> ... p", (*op.op.inputs[:2], bias))
    return parts


@axis_rule(f"{_PREFIX}Attention", activated=True)
def attention(op: Site) -> list[Dims]:
    """Self-attention with its projection: a weight of `inputs x (3 heads head_dim)`.

    A scale that is not given follows from head_dim, and is pinned.
    """
    extras = any(op.has(i) for i in range(4, len(op.op.inputs))) or len(op.op.outputs) > 1
    if op.has(3):
        op.lock(op.dims(3), "positions compared")
    if extras or op.attr("qkv_hidden_sizes", "do_rotary", default=0):
        return op.opaque("keys and values of their own")
    parts = heads_of(op)
    if parts is None:
        return op.opaque("heads do not divide")
    _, h, d = parts
    (b, s, i), (_, packed) = op.dims(0), op.dims(1)
    if op.has(2):
        op.broadcast([[packed], op.dims(2)])
    op.lock([s], "positions compared")
    op.contract(i)
    op.mix(d)
    if not op.attr("scale", default=0.0):
        op.pin("scale", length(d) ** -0.5, d)
    op.resize("num_heads", h)
    op.effect.macs = [(b, s, i, packed), (b, h, s, s, d), (b, h, s, s, d)]
    return [[b, s, h + d]]
