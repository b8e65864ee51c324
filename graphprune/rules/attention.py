"""Fused attention."""

from __future__ import annotations

from graphprune.rules.notation import parse
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Dims, Site


@axis_rule("aten.scaled_dot_product_attention")
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
