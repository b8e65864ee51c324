"""Fused attention."""

from __future__ import annotations

from graphprune.core.axes import Dim, atom, length, split
from graphprune.core.effect import Dims
from graphprune.rules.notation import parse
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site


@axis_rule("aten.scaled_dot_product_attention", linear=False)
def attention(op: Site) -> list[Dims]:
    """`softmax(q k^T * scale + mask) v`; with `enable_gqa`, query heads are `key heads x rep`.

    Without a given scale PyTorch takes 1/sqrt(head_dim) of the *new* head_dim, which would
    change the softmax temperature: the present value is pinned.
    """
    heads, kv = "...", "..."
    if op.attr("enable_gqa", default=False):
        h = op.shape(1)[-3]
        heads, kv = f"... (h={h} r)", "... h"
    text = f"{heads} q d, {kv} k d, {kv} k v -> {heads} q v"
    op.pin("scale", op.shape()[-1] ** -0.5, op.dims()[-1])
    (out,) = op.apply(parse(text), mixes="k")
    q, k = op.dims(0), op.dims(1)
    if op.attr("is_causal", default=False):
        op.lock([q[-2], k[-2]], "positions compared")
    if op.has(3):
        op.broadcast([[*out[:-2], q[-2], k[-2]], op.dims(3)])
    weights = (*out[:-1], k[-2])
    op.effect.macs = [(*weights, q[-1]), (*weights, out[-1])]
    return [out]


@axis_rule("Attention", linear=False)
def onnx_attention(op: Site) -> list[Dims]:
    """ONNX, opset 23: heads as a dimension of their own, or packed with head_dim.

    A scale that is not given follows from head_dim, and is pinned as above. Keys and values of the
    past stand ahead of the present ones, and both come back, by heads.
    """
    packed = op.rank() == 3
    q, k, v = (op.dims(i) for i in range(3))
    heads = op.attr("kv_num_heads") if packed else op.shape(1)[1]
    repeats = (op.attr("q_num_heads") if packed else op.shape()[1]) // heads
    if packed:
        parts = [
            split(x[2], sizes)
            for x, sizes in (
                (q, (heads, repeats, length(q[2]) // (heads * repeats))),
                (k, (heads, length(k[2]) // heads)),
                (v, (heads, length(v[2]) // heads)),
            )
        ]
        if None in parts:
            return op.opaque("heads do not divide")
        (h, r, d), (hk, dk), (hv, dv) = (part or [] for part in parts)
    else:
        pair = split(q[1], (heads, repeats))
        if pair is None:
            return op.opaque("heads do not divide")
        (h, r), d, hk, dk, hv, dv = pair, q[3], k[1], k[3], v[1], v[3]
    op.broadcast([[h, d], [hk, dk]])
    op.broadcast([[h], [hv]])
    s, t = q[-2], k[-2]
    op.broadcast([[q[0], t], [k[0], v[-2]], [v[0], t]])
    if op.has(4) or op.has(5):
        t = _with_past(op, [q[0], h, d], [q[0], h, dv], t)
    op.mix(t)
    op.contract(d)
    op.pin("scale", length(d) ** -0.5, d)
    if op.attr("is_causal", default=0) or op.has(6):
        op.lock([s, t], "positions compared")
    if op.has(6):
        op.broadcast([[q[0]], op.dims(6)])
    out_heads = h + r
    op.resize("q_num_heads", out_heads)
    op.resize("kv_num_heads", h)
    if op.has(3):
        op.broadcast([[q[0], out_heads, s, t], op.dims(3)])
    op.effect.macs = [(q[0], h, r, s, t, d), (q[0], h, r, s, t, dv)]
    out = [q[0], s, out_heads + dv] if packed else [q[0], out_heads, s, dv]
    more = [[q[0], h, t, d], [q[0], h, t, dv], [q[0], out_heads, s, t]]
    return [out, *more][: len(op.op.outputs)]


def _with_past(op: Site, key: Dims, value: Dims, t: Dim) -> Dim:
    """Let keys and values of the past go with the present ones; the positions of both.

    Args:
        op: The operation.
        key: Samples, heads and head_dim of the keys.
        value: Those of the values.
        t: Positions of the present.
    """
    for place, held in ((4, key), (5, value)):
        if op.has(place):
            past = op.dims(place)
            op.broadcast([held, [past[0], past[1], past[3]]])
            op.lock([past[2], t], "positions carried over")
    before = op.shape(4 if op.has(4) else 5)[2]
    return atom(before + length(t), f"positions carried over at {op.op.name}")
