"""Rarer operators of ONNX that pass their axes on."""

from __future__ import annotations

from math import prod

from graphprune.core.effect import Dims
from graphprune.rules.notation import parse
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site


@axis_rule("DeformConv")
def deform_conv(op: Site) -> list[Dims]:
    """Deformable convolution (Dai et al. 2017): input, weight, offsets, bias, mask."""
    groups, offsets = op.attr("group", default=1), op.attr("offset_group", default=1)
    fixed = ""
    if offsets == 1:
        x, taken, kept = f"(g={groups} i)", "i", f"(g={groups} o)"
        op.resize("group", "g")
    elif offsets % groups == 0:
        inner = f"p={offsets // groups} i"
        x, taken, kept, fixed = f"(g={groups} {inner})", f"({inner})", f"(g={groups} o)", "g p"
    elif groups % offsets == 0:
        outer = f"p={offsets} q={groups // offsets}"
        x, taken, kept, fixed = f"({outer} i)", "i", f"({outer} o)", "p q"
    else:
        return op.opaque("groups of channels and of offsets do not divide")
    text = f"n {x} *, {kept} {taken} *k, n *, {kept}, n * -> n {kept} *s"
    return op.apply(parse(text), locks=fixed)


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
