"""Losses, for models that compute their own."""

from __future__ import annotations

from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

_MEAN, _SUM = 1, 2  # torch.nn.functional's `reduction`, as ATen numbers it


def _total(op: Site, dims: Dims, free: Dims) -> list[Dims]:
    """The losses of the elements, or one for all: their sum, or their mean.

    Args:
        op: The loss.
        dims: Of the elements.
        free: Those of `dims` along which what is zero adds nothing.
    """
    reduction = op.attr("reduction", default=_MEAN)
    if reduction not in (_MEAN, _SUM):
        return [dims]
    (op.contract if reduction == _SUM else op.average)(*free)
    op.mix(*(dim for dim in dims if dim not in free))
    return [[]]


@axis_rule("aten.mse_loss", "aten.l1_loss", "aten.smooth_l1_loss", "aten.huber_loss", "aten.kl_div")
def distance(op: Site) -> list[Dims]:
    """Losses that are zero where both operands are."""
    return _total(op, op.broadcast(op.operands()), op.compared()[0])


@axis_rule(
    "aten.binary_cross_entropy", "aten.binary_cross_entropy_with_logits", "aten.soft_margin_loss"
)
def divergence(op: Site) -> list[Dims]:
    """Losses of each element by itself."""
    return _total(op, op.broadcast(op.operands()), [])


@axis_rule("aten.cross_entropy_loss", "aten.nll_loss_nd", "aten.multi_margin_loss")
def classes(op: Site) -> list[Dims]:
    """The target names a class: the dimension of the classes keeps its order."""
    at = min(1, op.rank() - 1)
    dims, target = op.dims(), op.dims(1)
    op.lock([dims[at]], "classes named")
    rest = [*dims[:at], *dims[at + 1 :]]
    op.broadcast([rest if len(target) < len(dims) else dims, target])
    if op.has(2):
        op.lock(op.dims(2), "classes named")
    return _total(op, rest, [])
