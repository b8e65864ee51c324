"""Look-ups: the dimension that is indexed keeps its length and order."""

from __future__ import annotations

from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Dims, Site


@axis_rule("aten.embedding", locks="v")
def embedding(op: Site) -> str:
    """A row of the table for each index."""
    return "v e, ... -> ... e"


@axis_rule("aten.index")
def index(op: Site) -> list[Dims]:
    """`x[i, :, j]` with tensors: the indexed dimensions give way to the indices' own."""
    dims = op.dims()
    indices = op.op.inputs[1:]
    indexed = [i for i, value in enumerate(indices) if value is not None]
    if any(value is not None and value.dtype == "bool" for value in indices):
        return op.opaque("a mask selects")
    op.lock([dims[i] for i in indexed], "indexed")
    new = op.broadcast([op.dims(i + 1) for i in indexed])
    kept = [dim for i, dim in enumerate(dims) if i not in indexed]
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    at = indexed[0] if adjacent else 0
    return [[*kept[:at], *new, *kept[at:]]]


@axis_rule("aten.index_put")
def index_put(op: Site) -> list[Dims]:
    """`x[i] = v`: only what lies behind the indexed dimensions is coupled with the values."""
    op.opaque("assigned by index")
    return [op.dims()]


@axis_rule("aten.index_select")
def index_select(op: Site) -> list[Dims]:
    """Chosen indices of one dimension."""
    at = op.axis()
    dims = op.dims()
    op.lock([dims[at]], "indexed")
    return [[*dims[:at], op.dims(1)[0] if op.rank(1) else (), *dims[at + 1 :]]]


@axis_rule("aten.gather", "aten.take_along_dim")
def gather(op: Site) -> list[Dims]:
    """For each position, one index along a dimension; the others run in step."""
    at = op.axis()
    dims, picks = list(op.dims()), list(op.dims(1))
    op.lock([dims[at], picks[at]], "indexed")
    if any(a != b for i, (a, b) in enumerate(zip(op.shape(), op.shape(1), strict=True)) if i != at):
        return op.opaque("gathered from a corner")
    out = picks[at]
    dims[at] = picks[at] = ()
    both = op.broadcast([dims, picks])
    return [[*both[:at], out, *both[at + 1 :]]]


@axis_rule("aten.scatter", "aten.scatter_add", "aten.scatter_reduce", "aten.masked_scatter")
def scatter(op: Site) -> list[Dims]:
    """Assignment by position."""
    op.opaque("assigned by index")
    return [op.dims()]
