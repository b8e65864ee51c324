"""Pooling, resizing, and other windows over space that leave channels alone."""

from __future__ import annotations

from math import prod

from graphprune.core.effect import AnyLength, Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

_SPATIAL = ("1d", "2d", "3d")


@axis_rule(
    *(
        f"aten.{p}_pool{d}"
        for p in ("max", "avg", "adaptive_avg", "adaptive_max")
        for d in _SPATIAL
    ),
    *(f"aten.{p}_pool{d}_with_indices" for p in ("max",) for d in _SPATIAL),
    *(f"aten.{p}_pool{d}" for p in ("_adaptive_avg", "fractional_max") for d in _SPATIAL[1:]),
    *(f"aten.{kind}_pad{d}" for kind in ("reflection", "replication") for d in _SPATIAL),
)
def pool(op: Site) -> str:
    """A window over the spatial dimensions; the input may come without a batch."""
    spatial = next(d for d in (1, 2, 3) if f"{d}d" in op.op.type)
    lead = "n c" if op.rank() == spatial + 2 else "c"
    samples = f", {lead if op.rank() == spatial + 2 else '1 c'} *" if op.has(1) else ""
    return f"{lead} *{samples} -> {lead} *, {lead} *"


@axis_rule(
    *(
        f"aten.{kind}"
        for kind in (
            "upsample_nearest1d",
            "upsample_nearest2d",
            "upsample_nearest3d",
            "_upsample_nearest_exact1d",
            "_upsample_nearest_exact2d",
            "_upsample_nearest_exact3d",
            "upsample_linear1d",
            "upsample_bilinear2d",
            "upsample_trilinear3d",
            "upsample_bicubic2d",
            "_upsample_bilinear2d_aa",
            "_upsample_bicubic2d_aa",
        )
    )
)
def upsample(op: Site) -> str:
    """Resampling of space, channel by channel."""
    return "n c * -> n c *"


@axis_rule("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
def onnx_pool(op: Site) -> str | list[Dims]:
    """ONNX; the positions that `MaxPool` can return count across all channels."""
    if len(op.op.outputs) > 1:
        return op.opaque("positions taken")
    return "n c * -> n c *"


@axis_rule("Resize", "Upsample")
def resize(op: Site) -> list[Dims]:
    """Resampling of the dimensions whose length changes; the others pass."""
    new = op.fresh(why="resampled")
    same = [a == b for a, b in zip(op.shape(), op.out_shape(), strict=True)]
    axes = [at % op.rank() for at in op.attr("axes", default=range(op.rank()))]
    given = op.attr("scales", default=[])
    scales = dict(zip(axes, given, strict=True)) if len(given) == len(axes) else {}
    kept = [s and scales.get(i, 1) == 1 for i, s in enumerate(same)]
    op.lock([dim for dim, keep in zip(op.dims(), kept, strict=True) if not keep], "resampled")
    op.resize("sizes", [op.dims()[at] if kept[at] else None for at in axes])
    return [[a if k else b for a, b, k in zip(op.dims(), new, kept, strict=True)]]


@axis_rule("RoiAlign", "MaxRoiPool", locks="n")
def roi_pool(op: Site) -> str:
    """A window over space for each region of interest, which names its sample (He et al. 2017)."""
    return "n c *, r *, r -> r c *"


@axis_rule("aten.grid_sampler", "aten.grid_sampler_2d", "aten.grid_sampler_3d", "GridSample")
def grid_sample(op: Site) -> str:
    """Sampling of space at the positions that a grid gives, each with one number a dimension."""
    to = "h w" if op.rank() == 4 else "d h w"
    return f"n c *, n {to} * -> n c {to}"


@axis_rule("aten.affine_grid_generator")
def affine_grid(op: Site) -> list[Dims]:
    """A grid of positions for each transformation."""
    op.lock(op.dims()[1:], "positions made")
    space = [None] * (len(op.attr("size")) - 2)
    op.resize("size", [op.dims()[0], AnyLength(), *space])
    return [[op.dims()[0], *op.fresh(why="positions made")[1:]]]


@axis_rule("aten.max_unpool2d", "aten.max_unpool3d")
def unpool(op: Site) -> str:
    """Maxima return to their positions."""
    lead = "n c" if op.rank() == (4 if "2d" in op.op.type else 5) else "c"
    return f"{lead} *, {lead} * -> {lead} *"


@axis_rule("aten.pixel_shuffle", locks="r s")
def pixel_shuffle(op: Site) -> str:
    """Sub-pixel convolution (Shi et al. 2016): channels become space."""
    r = op.attr("upscale_factor")
    return f"... (c r={r} s={r}) h w -> ... c (h r) (w s)"


@axis_rule("DepthToSpace", locks="r s")
def depth_to_space(op: Site) -> str:
    """Sub-pixel convolution; `DCR` has the blocks outermost, `CRD` is PyTorch's order."""
    r = op.attr("blocksize")
    packed = f"c r={r} s={r}" if op.attr("mode", default="DCR") == "CRD" else f"r={r} s={r} c"
    return f"n ({packed}) h w -> n c (h r) (w s)"


@axis_rule("SpaceToDepth", locks="r s")
def space_to_depth(op: Site) -> str:
    """Space becomes channels, the blocks outermost."""
    r = op.attr("blocksize")
    return f"n c (h r={r}) (w s={r}) -> n (r s c) h w"


@axis_rule("aten.pixel_unshuffle", locks="r s")
def pixel_unshuffle(op: Site) -> str:
    """Space becomes channels."""
    r = op.attr("downscale_factor")
    return f"... c (h r={r}) (w s={r}) -> ... (c r s) h w"


@axis_rule("aten.channel_shuffle", "aten.native_channel_shuffle")
def channel_shuffle(op: Site) -> str:
    """ShuffleNet's permutation (Zhang et al. 2018): a reshape, a transpose and a reshape."""
    op.resize("groups", "g")
    return f"n (g={op.attr('groups')} c) ... -> n (c g) ..."


@axis_rule("aten.im2col", locks="k")
def unfold(op: Site) -> str:
    """`torch.nn.functional.unfold`: the patch joins the channels."""
    n = "n " if op.rank() == 4 else ""
    return f"{n}c * -> {n}(c k={prod(op.attr('kernel_size'))}) *"


@axis_rule("aten.col2im", locks="k")
def fold(op: Site) -> str:
    """`torch.nn.functional.fold`: patches are summed back into an image."""
    n = "n " if op.rank() == 3 else ""
    return f"{n}(c k={prod(op.attr('kernel_size'))}) * -> {n}c *"
