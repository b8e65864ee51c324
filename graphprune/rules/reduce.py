"""Reductions."""

from __future__ import annotations

from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

_MIXING = "nanmean amax amin aminmax max min prod var std var_mean std_mean logsumexp all"


def _reduced(op: Site) -> list[int]:
    given = op.attr("dim", "axes", "axis")
    if given is None or given == []:
        return [] if op.attr("noop_with_empty_axes") else list(range(op.rank()))
    return [d % max(op.rank(), 1) for d in (given if isinstance(given, list | tuple) else [given])]


def _reduce(op: Site, gone: list[int]) -> list[Dims]:
    dims = op.dims()
    if op.attr("keepdim", "keepdims", default=False):
        out = [() if i in gone else dim for i, dim in enumerate(dims)]
    else:
        out = [dim for i, dim in enumerate(dims) if i not in gone]
    return [out] * len(op.op.outputs)


@axis_rule(
    "aten.sum", "aten.nansum", "aten.any", "aten.count_nonzero", "ReduceSum", "ReduceSumSquare"
)
def summed(op: Site) -> list[Dims]:
    """A sum contracts: removing an index equals zeroing it."""
    gone = _reduced(op)
    op.contract(*(op.dims()[i] for i in gone))
    return _reduce(op, gone)


@axis_rule("aten.mean", "ReduceMean")
def mean(op: Site) -> list[Dims]:
    """A sum, divided by how many there were: what stays is multiplied by its share.

    Where the mean is a statistic that its own operand is put right by, it mixes: `statistics`.
    """
    gone = _reduced(op)
    whole = "float" not in op.dtype()  # it is rounded once it is divided
    (op.mix if whole else op.average)(*(op.dims()[i] for i in gone))
    return _reduce(op, gone)


@axis_rule("aten.norm", "aten.linalg_vector_norm", "aten.linalg_norm", "ReduceL1", "ReduceL2")
def norm(op: Site) -> list[Dims]:
    """What is zero adds nothing to a norm of positive order.

    Other orders, and norms of matrices, depend on all that they see.
    """
    gone = _reduced(op)
    order = op.attr("p", "ord", default=2)
    matrix = op.op.type == "aten.linalg_norm" and len(gone) > 1 and op.attr("ord") is not None
    positive = not isinstance(order, str) and order > 0 and not matrix
    (op.contract if positive else op.mix)(*(op.dims()[i] for i in gone))
    return _reduce(op, gone)


@axis_rule("aten.cosine_similarity")
def cosine_similarity(op: Site) -> list[Dims]:
    """Sums of products, along one dimension."""
    dims = op.broadcast(op.operands())
    at = op.axis(default=1, rank=len(dims))
    op.contract(dims[at])
    return [[*dims[:at], *dims[at + 1 :]]]


@axis_rule("aten.pairwise_distance", mixes="d", linear=False)
def pairwise_distance(op: Site) -> str:
    """Each row from its counterpart; a constant is added to every difference."""
    return f"... d, ... d -> ...{' 1' if op.attr('keepdim', default=False) else ''}"


@axis_rule("aten.dist")
def distance(op: Site) -> list[Dims]:
    """The norm of a difference; see `norm`."""
    held, others = op.compared()
    (op.contract if op.attr("p", default=2) > 0 else op.mix)(*held)
    op.mix(*others)
    return [[]]


@axis_rule("aten.renorm")
def renorm(op: Site) -> list[Dims]:
    """Slices of a dimension are shortened to a norm; see `norm`."""
    at = op.axis()
    rest = [dim for i, dim in enumerate(op.dims()) if i != at]
    (op.contract if op.attr("p", default=2) > 0 else op.mix)(*rest)
    return [op.dims()]


@axis_rule("aten.embedding_renorm")
def embedding_renorm(op: Site) -> list[Dims]:
    """The rows of a table that are looked up are shortened to a norm, where they lie."""
    op.lock(op.dims(1), "rows changed where they lie")
    op.contract(op.dims()[1])
    return [op.dims()]


@axis_rule("aten.cdist", "aten._cdist_forward", linear=False)
def cdist(op: Site) -> str:
    """Each row from every other."""
    return "... i d, ... j d -> ... i j"


@axis_rule("aten._pdist_forward", "aten.pdist")
def pdist(op: Site) -> list[Dims]:
    """Each row from every later one."""
    rows, features = op.dims()
    op.lock([rows], "each row from every other")
    op.contract(features)
    return [op.fresh(why="each row from every other")]


@axis_rule("aten.linalg_cross")
def cross(op: Site) -> list[Dims]:
    """Cross product of vectors in space."""
    dims = op.broadcast(op.operands())
    op.lock([dims[op.axis(default=-1, rank=len(dims))]], "three of space")
    return [dims]


_ONNX_MIXING = "ReduceMax ReduceMin ReduceProd ReduceLogSum ReduceLogSumExp"


@axis_rule(*(f"aten.{name}" for name in _MIXING.split()), *_ONNX_MIXING.split())
def reduced(op: Site) -> list[Dims]:
    """Extremes, products and deviations depend on all that they see."""
    if op.op.type in ("aten.max", "aten.min"):
        if len(op.op.inputs) > 1:
            return [op.broadcast(op.operands())]
        if op.attr("dim") is not None and op.reads(1):  # positions along the dimension
            op.lock([op.dims()[op.axis()]], "positions taken")
    gone = _reduced(op)
    op.mix(*(op.dims()[i] for i in gone))
    return _reduce(op, gone)


@axis_rule("aten.histc", "aten.histogram")
def counts(op: Site) -> list[Dims]:
    """How often values occur, over all of a tensor, and between which bounds."""
    op.opaque("values counted")
    return [op.fresh(i, why="values counted") for i in range(len(op.op.outputs))]


@axis_rule(
    *(f"aten.{name}" for name in ("argmax", "argmin", "mode", "median", "nanmedian", "kthvalue")),
    *("ArgMax", "ArgMin"),
)
def positions(op: Site) -> list[Dims]:
    """Results that name positions: the dimension keeps its order and length."""
    gone = _reduced(op)
    op.lock([op.dims()[i] for i in gone], "positions taken")
    return _reduce(op, gone)
