"""Normalisation layers. What they average over, they mix."""

from __future__ import annotations

from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Dims, Site


@axis_rule(
    "aten.batch_norm",
    "aten._native_batch_norm_legit_no_training",
    "aten._batch_norm_no_update",
    "aten.instance_norm",
)
def batch_norm(op: Site) -> str:
    """One statistic a channel: channels stay independent.

    Statistics taken from the operand itself (training, instance norm, weight standardisation)
    mix all of its other dimensions.
    """
    if op.attr("training", "use_input_stats", default=False):
        op.mix(*(dim for i, dim in enumerate(op.dims()) if i != 1))
    return "n c ..., c, c, c, c -> n c ..., *, *, *"


@axis_rule("aten.group_norm", mixes="c ...")
def group_norm(op: Site) -> str:
    """Whole groups may go exactly; channels inside a group share its statistics."""
    groups = op.attr("num_groups", "group")
    g = f"(g={groups} c)"
    op.resize("num_groups", "g")
    return f"n {g} ..., {g}, {g} -> n {g} ..."


@axis_rule("aten.native_group_norm", mixes="c ...")
def native_group_norm(op: Site) -> str:
    """As `group_norm`, with every length an argument, and the statistics as results."""
    g = f"(g={op.attr('group')} c)"
    n, c, *space = op.dims()
    for attr, size in (("N", n), ("C", c), ("HxW", tuple(a for dim in space for a in dim))):
        op.resize(attr, size)
    op.resize("group", "g")
    return f"n {g} ..., {g}, {g} -> n {g} ..., n g, n g"


@axis_rule("aten.layer_norm", "aten.rms_norm", "aten._fused_rms_norm", "aten.native_layer_norm")
def layer_norm(op: Site) -> list[Dims]:
    """Normalisation over the trailing dimensions, which it mixes."""
    x = op.dims()
    first = op.rank() - len(op.attr("normalized_shape"))
    normalized = x[first:]
    out = op.broadcast(op.operands())
    op.mix(*normalized)
    op.resize("normalized_shape", list(normalized))
    statistics: Dims = [*x[:first], *(() for _ in normalized)]
    return [out, *(statistics for _ in op.op.outputs[1:])]


@axis_rule("aten._weight_norm", "aten._weight_norm_interface")
def weight_norm(op: Site) -> list[Dims]:
    """Weight normalisation (Salimans & Kingma 2016): `g * v / |v|`, the norm over all but `dim`.

    What is zero adds nothing to a norm; -1 means the norm over all.
    """
    kept = op.attr("dim", default=0)
    out = op.broadcast(op.operands())
    op.contract(*(dim for i, dim in enumerate(out) if i != kept))
    return [out, *(op.dims(1) for _ in op.op.outputs[1:])]


@axis_rule("aten.softmax", "aten.log_softmax", "aten._softmax", "aten._log_softmax")
def softmax(op: Site) -> list[Dims]:
    """Softmax mixes the dimension it runs along."""
    if op.rank():
        op.mix(op.dims()[op.axis()])
    return [op.dims()]
