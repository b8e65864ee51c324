"""Convolutions: plain, grouped, depthwise, transposed, in any number of dimensions."""

from __future__ import annotations

from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site


def _all(value: object, wanted: int) -> bool:
    items = value if isinstance(value, list | tuple) else [value]
    return all(item == wanted for item in items)


def _pointwise(op: Site) -> bool:
    """Whether each output position sees only its own input position."""
    padding = op.attr("padding", "pads", default=0)
    return (
        _all(list(op.shape(1)[2:]), 1)
        and _all(op.attr("stride", "strides", default=1), 1)
        and (padding == "valid" or _all(padding, 0))
    )


@axis_rule("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten.convolution", "Conv")
def conv(op: Site) -> str:
    """PyTorch and ONNX `Conv`: weight `(groups * out) x in x kernel`."""
    if op.attr("transposed", default=False):
        return conv_transpose(op)
    groups = op.attr("groups", "group", default=1)
    n = "n " if op.rank() == op.rank(1) else ""
    x, y = ("...", "...") if _pointwise(op) else ("*", "*s")
    if groups == 1:
        return f"{n}i {x}, o i *k, o -> {n}o {y}"
    op.resize("groups", "g")
    op.resize("group", "g")
    g = f"g={groups}"
    return f"{n}({g} i) {x}, ({g} o) i *k, ({g} o) -> {n}({g} o) {y}"


@axis_rule("aten.conv_tbc")
def conv_of_steps(op: Site) -> str:
    """Convolution over the first dimension: weight `kernel x in x out`."""
    return "* n i, *k i o, o -> *s n o"


@axis_rule(
    "aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d", "ConvTranspose"
)
def conv_transpose(op: Site) -> str:
    """Transposed convolution: weight `(groups * in) x out x kernel`."""
    g = f"g={op.attr('groups', 'group', default=1)}"
    op.resize("groups", "g")
    op.resize("group", "g")
    n = "n " if op.rank() == op.rank(1) else ""
    return f"{n}({g} i) *s, ({g} i) o *k, ({g} o) -> {n}({g} o) *"
