"""Attention of ONNX Runtime (domain `com.microsoft`), and rotary embeddings of both."""

from __future__ import annotations

from graphprune.core.axes import Dim, cut_all, length, split, unify
from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

_PREFIX = "com.microsoft::"
_COMPARED = "positions compared"


def _pair(op: Site, dim: Dim, heads: int) -> list[Dim] | None:
    parts = split(dim, (heads, length(dim) // heads))
    if parts is None:
        op.lock([dim], "heads do not divide")
    return parts


@axis_rule(f"{_PREFIX}MultiHeadAttention")
def multi_head(op: Site) -> list[Dims]:
    """Attention between queries, keys and values, each `batch x length x (heads head_dim)`."""
    carried = any(op.has(place) for place in range(6, len(op.op.inputs)))
    if carried or not (op.has(1) and op.has(2)) or {op.rank(at) for at in range(3)} != {3}:
        return op.opaque("keys and values packed or carried over")
    (b, s, q), (bk, t, k), (bv, tv, v) = (op.dims(at) for at in range(3))
    heads = op.attr("num_heads")
    pairs = [_pair(op, dim, heads) for dim in (q, k, v)]
    if None in pairs:
        return op.opaque("heads do not divide")
    (h, d), (hk, dk), (hv, dv) = (pair or [] for pair in pairs)
    op.broadcast([[h, d], [hk, dk]])
    op.broadcast([[h], [hv]])
    op.broadcast([[b, t], [bk, tv], [bv, t]])
    if op.has(3):  # a bias of each
        parts = cut_all(op.dims(3)[0], [length(dim) for dim in (q, k, v)])
        for part, dim in zip(parts, (q, k, v), strict=True):
            unify(part, dim, f"sizes do not divide at {op.op.name}")
    if op.has(4):
        op.lock(op.dims(4), _COMPARED)
    if op.has(5):
        op.broadcast([[b, h, s, t], op.dims(5)])
    if op.attr("unidirectional", default=0):
        op.lock([s, t], _COMPARED)
    op.mix(t)
    op.contract(d)
    if not op.attr("scale", default=0.0):
        op.pin("scale", length(d) ** -0.5, d)
    op.resize("num_heads", h)
    op.effect.macs = [(b, h, s, t, d), (b, h, s, t, dv)]
    present = [[b, h, t, d], [b, h, t, dv]]
    return [[b, s, h + dv], *present][: len(op.op.outputs)]


@axis_rule(f"{_PREFIX}GroupQueryAttention")
def group_query(op: Site) -> list[Dims]:
    """Attention whose keys and values serve several query heads each, with those of the past.

    Query heads are `key heads x repeats`: as many of the latter can go as of each key head.
    """
    heads, kv = op.attr("num_heads"), op.attr("kv_num_heads")
    b, s, q = op.dims(0)
    size = op.out_shape()[-1] // heads
    if op.has(1):
        k, v = op.dims(1)[-1], op.dims(2)[-1]
        op.broadcast([[b, s], op.dims(1)[:2], op.dims(2)[:2]])
    else:
        q, k, v = cut_all(q, [heads * size, kv * size, kv * size])
    three, pairs = split(q, (kv, heads // kv, size)), [_pair(op, dim, kv) for dim in (k, v)]
    if three is None or None in pairs:
        return op.opaque("heads do not divide")
    h, r, d = three
    for pair in pairs:
        op.broadcast([[h, d], pair or []])
    for place in (3, 4):
        if op.has(place):
            past = op.dims(place)
            op.broadcast([[b, h, d], [past[0], past[1], past[3]]])
            op.lock([past[2]], _COMPARED)
    for place in range(5, len(op.op.inputs)):
        if op.has(place):
            op.lock(op.dims(place), _COMPARED)
    if len(op.shape(5)) == 1:  # a length for each sample
        op.broadcast([[b], op.dims(5)])
    op.lock([s, d], _COMPARED)
    op.contract(d)
    op.resize("num_heads", h + r)
    op.resize("kv_num_heads", h)
    op.effect.macs = [(b, h, r, s, s, d), (b, h, r, s, s, d)]
    rest = [
        [b, h, op.fresh(at, _COMPARED)[2], d] if len(value.shape) == 4 else op.fresh(at, _COMPARED)
        for at, value in enumerate(op.op.outputs)
    ]
    return [[b, s, h + r + d], *rest[1:]]


@axis_rule("RotaryEmbedding", f"{_PREFIX}RotaryEmbedding")
def rotary(op: Site) -> list[Dims]:
    """Rotary embedding (Su et al. 2021): pairs within a head are turned; whole heads can go."""
    x = op.dims()
    for place in range(1, len(op.op.inputs)):
        if op.has(place):
            op.lock(op.dims(place), "angles of a head")
    if op.rank() == 4:
        op.lock([x[0], x[2], x[3]], "angles of a head")
        return [x]
    op.lock(x[:2], "angles of a head")
    heads = op.attr("num_heads", default=0)
    tables = [place for place in range(1, 4) if op.has(place) and op.dtype(place) != "int64"]
    size = op.shape()[-1] // heads if heads else 2 * op.shape(tables[0])[-1]
    parts = _pair(op, x[2], op.shape()[-1] // size)
    if parts is None:
        return [x]
    op.lock([parts[1]], "angles of a head")
    if heads:
        op.resize("num_heads", parts[0])
    return [x]


@axis_rule(f"{_PREFIX}EmbedLayerNormalization")
def embedded(op: Site) -> list[Dims]:
    """Sums of rows of three tables, normalised."""
    tables = [op.dims(place) for place in (2, 3, 4) if op.has(place)]
    vectors = [op.dims(place) for place in (5, 6) if op.has(place)]
    (hidden,) = op.broadcast([[table[1]] for table in tables] + vectors)
    op.lock([table[0] for table in tables], "rows looked up by number")
    op.mix(hidden)
    tokens = op.dims(0)
    op.lock(tokens, "rows looked up by number")
    return [
        [*tokens, hidden] if value.shape[-1:] == (length(hidden),) and len(value.shape) == 3
        else op.fresh(at, "rows looked up by number")
        for at, value in enumerate(op.op.outputs)
    ]  # fmt: skip
