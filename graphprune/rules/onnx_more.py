"""Rarer operators of ONNX that pass their axes on."""

from __future__ import annotations

from math import prod

from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site


@axis_rule("SwiGLU")
def swiglu(op: Site) -> list[Dims]:
    """A gate and what it multiplies."""
    return [op.broadcast(op.operands())]


@axis_rule("BitCast")
def bit_cast(op: Site) -> list[Dims]:
    """The same bits as numbers of another type."""
    return [op.dims()] if op.shape() == op.out_shape() else op.opaque("bits taken apart")


@axis_rule("CenterCropPad")
def center_crop(op: Site) -> list[Dims]:
    """Some dimensions are cut or padded around their centre."""
    rank = op.rank()
    axes = {at % rank for at in op.attr("axes", default=list(range(rank)))}
    x, fresh = op.dims(), op.fresh(why="positions taken")
    op.lock([x[at] for at in axes], "positions taken")
    return [[fresh[at] if at in axes else dim for at, dim in enumerate(x)]]


@axis_rule("Col2Im", locks="k")
def col2im(op: Site) -> str:
    """Patches are summed back into an image."""
    return f"n (c k={prod(op.attr('block_shape'))}) * -> n c *"


@axis_rule("com.microsoft::BiasAdd")
def bias_add(op: Site) -> list[Dims]:
    """A bias and a skip."""
    return [op.broadcast(op.operands())]


@axis_rule("com.microsoft::GroupNorm", mixes="c ...")
def group_norm(op: Site) -> str:
    """Group normalisation, as a rule with the channels last."""
    g = f"g={op.attr('groups')}"
    op.resize("groups", "g")
    last = op.attr("channels_last", default=1)
    x = f"n ... ({g} c)" if last else f"n ({g} c) ..."
    return f"{x}, ({g} c), ({g} c) -> {x}"
