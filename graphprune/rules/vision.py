"""Operations of torchvision (`torchvision.ops`): deformable convolution, regions of interest."""

from __future__ import annotations

from graphprune.core.effect import Dims
from graphprune.rules.notation import parse
from graphprune.rules.registry import axis_rule, locked
from graphprune.rules.site import Bound, Site


@axis_rule("torchvision.deform_conv2d")
def deform_conv2d(op: Site) -> list[Dims]:
    """Deformable convolution: input, weight, offsets, mask, bias."""
    mask = 3 if op.attr("use_mask", default=True) else None
    return _deformed(op, "groups", "offset_groups", "n *, n *, {kept}", 4, mask)


@axis_rule("DeformConv")
def deform_conv(op: Site) -> list[Dims]:
    """Deformable convolution as ONNX has it: input, weight, offsets, bias, mask."""
    return _deformed(op, "group", "offset_group", "n *, {kept}, n *", 3, 4 if op.has(4) else None)


def _deformed(
    op: Site, groups_name: str, offsets_name: str, behind: str, bias: int, mask: int | None
) -> list[Dims]:
    """Deformable convolution (Dai et al. 2017; with a mask, Zhu et al. 2019).

    Offsets and mask hold a place for each tap of each offset group, of which none can go; input
    channels come in groups of both kinds. Offsets say where channels are read, and are no part of
    the product: it is that of a convolution, and a mask meets it place by place.

    Args:
        op: The operation.
        groups_name: The attribute that holds the groups of the channels.
        offsets_name: The attribute that holds the groups of the offsets.
        behind: Patterns of the operands behind the weight; `{kept}` stands for the outputs.
        bias: The place of the bias.
        mask: The place of the mask, where there is one.
    """
    groups, offsets = op.attr(groups_name, default=1), op.attr(offsets_name, default=1)
    fixed = ""
    if offsets == 1:
        x, taken, kept = f"(g={groups} i)", "i", f"(g={groups} o)"
        op.resize(groups_name, "g")
    elif offsets % groups == 0:
        inner = f"p={offsets // groups} i"
        x, taken, kept, fixed = f"(g={groups} {inner})", f"({inner})", f"(g={groups} o)", "g p"
    elif groups % offsets == 0:
        outer = f"p={offsets} q={groups // offsets}"
        x, taken, kept, fixed = f"({outer} i)", "i", f"({outer} o)", "p q"
    else:
        return op.opaque("groups of channels and of offsets do not divide")
    text = f"n {x} *, {kept} {taken} *k, {behind.format(kept=kept)} -> n {kept} *s"
    found = op.apply(parse(text), locks=fixed)
    product = f"n {x} *, {kept} {taken} *k, {kept}, n -> n {kept} *s"
    operands = [op.op.inputs[at] if at is not None and op.has(at) else None for at in (bias, mask)]
    sizes = op.products.pop().sizes
    op.products.append(Bound(parse(product), (*op.op.inputs[:2], *operands), sizes))
    return found


@axis_rule("torchvision.roi_align", "torchvision.roi_pool", locks="n")
def roi(op: Site) -> str:
    """A window over space for each region of interest, which names its sample (He et al. 2017)."""
    return "n c *, r * -> r c *, r c *"


locked(
    "each part of a region reads channels of its own, by their numbers",
    "torchvision.ps_roi_align",
    "torchvision.ps_roi_pool",
)
locked("quantized regions of interest", "torchvision.qroi_align")
