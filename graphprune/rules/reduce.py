"""Reductions."""

from __future__ import annotations

from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Dims, Site

_MIXING = """
    mean amax amin max min prod var std var_mean std_mean logsumexp norm linalg_vector_norm any all
"""


def _reduced(op: Site) -> list[int]:
    given = op.attr("dim")
    if given is None or given == []:
        return list(range(op.rank()))
    return [d % max(op.rank(), 1) for d in (given if isinstance(given, list | tuple) else [given])]


def _reduce(op: Site, gone: list[int]) -> list[Dims]:
    dims = op.dims()
    if op.attr("keepdim", default=False):
        out = [() if i in gone else dim for i, dim in enumerate(dims)]
    else:
        out = [dim for i, dim in enumerate(dims) if i not in gone]
    return [out] * len(op.op.outputs)


@axis_rule("aten.sum", "aten.nansum")
def summed(op: Site) -> list[Dims]:
    """A sum contracts: removing an index equals zeroing it."""
    gone = _reduced(op)
    op.contract(*(op.dims()[i] for i in gone))
    return _reduce(op, gone)


@axis_rule(*(f"aten.{name}" for name in _MIXING.split()))
def reduced(op: Site) -> list[Dims]:
    """Means, extremes and norms depend on all that they see."""
    if op.op.type in ("aten.max", "aten.min"):
        if len(op.op.inputs) > 1:
            return [op.broadcast(op.operands())]
        if op.attr("dim") is not None:  # the second result holds positions along the dimension
            op.lock([op.dims()[op.axis()]], "positions taken")
    gone = _reduced(op)
    op.mix(*(op.dims()[i] for i in gone))
    return _reduce(op, gone)


@axis_rule("aten.argmax", "aten.argmin", "aten.mode", "aten.median", "aten.kthvalue")
def positions(op: Site) -> list[Dims]:
    """Results that name positions: the dimension keeps its order and length."""
    gone = _reduced(op)
    op.lock([op.dims()[i] for i in gone], "positions taken")
    return _reduce(op, gone)
