"""Normalisation layers. What they average over, they mix."""

from __future__ import annotations

from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site


@axis_rule(
    "aten.batch_norm",
    "aten._native_batch_norm_legit_no_training",
    "aten._batch_norm_no_update",
    "aten._native_batch_norm_legit",
    "aten.instance_norm",
    norm=True,
    statistics=(3, 4),
)
def batch_norm(op: Site) -> str:
    """One statistic a channel: channels stay independent.

    Statistics taken from the operand itself (training, instance norm, weight standardisation)
    mix all of its other dimensions.
    """
    if op.attr("training", "use_input_stats", default=False):
        op.mix(*(dim for i, dim in enumerate(op.dims()) if i != 1))
    return "n c ..., c, c, c, c -> n c ..., *, *, *"


@axis_rule("aten.group_norm", mixes="c ...", norm=True)
def group_norm(op: Site) -> str:
    """Whole groups may go exactly; channels inside a group share its statistics."""
    groups = op.attr("num_groups", "group")
    g = f"(g={groups} c)"
    op.resize("num_groups", "g")
    return f"n {g} ..., {g}, {g} -> n {g} ..."


@axis_rule("aten.native_group_norm", mixes="c ...", norm=True)
def native_group_norm(op: Site) -> str:
    """As `group_norm`, with every length an argument, and the statistics as results."""
    g = f"(g={op.attr('group')} c)"
    n, c, *space = op.dims()
    for attr, size in (("N", n), ("C", c), ("HxW", tuple(a for dim in space for a in dim))):
        op.resize(attr, size)
    op.resize("group", "g")
    return f"n {g} ..., {g}, {g} -> n {g} ..., n g, n g"


@axis_rule("BatchNormalization", norm=True, statistics=(3, 4))
def onnx_batch_norm(op: Site) -> str:
    """ONNX: in training mode the updated statistics are results too."""
    if op.attr("training_mode", default=0):
        op.mix(*(dim for i, dim in enumerate(op.dims()) if i != 1))
    return "n c ..., c, c, c, c -> n c ..., c, c, c, c"


@axis_rule("InstanceNormalization", mixes="...", norm=True)
def instance_norm(op: Site) -> str:
    """Statistics of each channel of each sample."""
    return "n c ..., c, c -> n c ..."


@axis_rule("GroupNormalization", mixes="c ...", norm=True)
def group_normalization(op: Site) -> str:
    """ONNX: a gain for each channel since opset 21, for each group before."""
    groups = op.attr("num_groups")
    op.resize("num_groups", "g")
    x = f"(g={groups} c)"
    gain = "g" if op.shape(1)[0] == groups < op.shape()[1] else x
    return f"n {x} ..., {gain}, {gain} -> n {x} ..."


@axis_rule(
    "aten.layer_norm",
    "aten.rms_norm",
    "aten._fused_rms_norm",
    "aten.native_layer_norm",
    "LayerNormalization",
    "RMSNormalization",
    "SimplifiedLayerNormalization",
    norm=True,
)
def layer_norm(op: Site) -> str:
    """Normalisation over the trailing dimensions, which it mixes."""
    x = op.dims()
    shape = op.attr("normalized_shape")
    first = op.axis("axis", default=-1) if shape is None else op.rank() - len(shape)
    names = " ".join(f"c{i}" for i in range(len(x) - first))
    every = " ".join([*(f"n{i}" for i in range(first)), names])
    op.mix(*x[first:])
    op.resize("normalized_shape", list(x[first:]))
    gains = [op.aligned(i, every if op.has(i) else names) for i in range(1, 3)]
    statistics = " ".join([*(f"n{i}" for i in range(first)), *("1" for _ in x[first:])])
    return f"{every}, {', '.join(gains)} -> {every}, {statistics}, {statistics}"


@axis_rule("aten._weight_norm", "aten._weight_norm_interface", does="direct")
def weight_norm(op: Site) -> list[Dims]:
    """Weight normalisation (Salimans & Kingma 2016): `g * v / |v|`, the norm over all but `dim`.

    What is zero adds nothing to a norm; -1 means the norm over all.
    """
    kept = op.attr("dim", default=0)
    out = op.broadcast(op.operands())
    op.contract(*(dim for i, dim in enumerate(out) if i != kept))
    return [out, *(op.dims(1) for _ in op.op.outputs[1:])]


@axis_rule(
    "aten.softmax", "aten.log_softmax", "aten._softmax", "aten._log_softmax", "aten._safe_softmax"
)
def softmax(op: Site) -> list[Dims]:
    """Softmax mixes the dimension it runs along."""
    if op.rank():
        op.mix(op.dims()[op.axis()])
    return [op.dims()]


@axis_rule("Softmax", "LogSoftmax", "Hardmax")
def onnx_softmax(op: Site) -> list[Dims]:
    """ONNX; before opset 13 (`flatten`) the dimensions from `axis` on are taken as one."""
    at = op.axis("axis", default=-1)
    op.mix(*op.dims()[at : None if op.attr("flatten") else at + 1])
    return [op.dims()]


@axis_rule("LpNormalization")
def lp_normalization(op: Site) -> list[Dims]:
    """Division by a norm of positive order, to which zeros add nothing."""
    op.contract(op.dims()[op.axis("axis", default=-1)])
    return [op.dims()]


@axis_rule("MeanVarianceNormalization")
def mean_variance(op: Site) -> list[Dims]:
    """Standardisation over the named dimensions."""
    op.mix(*(op.dims()[at] for at in op.attr("axes", default=[0, 2, 3])))
    return [op.dims()]


@axis_rule("LRN")
def local_response(op: Site) -> list[Dims]:
    """Each channel is divided by its neighbours' energy (Krizhevsky et al. 2012)."""
    op.lock(op.dims()[1:2], "order matters")
    return [op.dims()]
