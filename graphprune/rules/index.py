"""Look-ups: the dimension that is indexed keeps its length and order."""

from __future__ import annotations

from math import prod

from graphprune.core.axes import concat, cut, cut_all, length, regroup
from graphprune.core.effect import Dims, FromEnd
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site


@axis_rule("aten.embedding", locks="v", does="look up")
def embedding(op: Site) -> str:
    """A row of the table for each index."""
    return "v e, ... -> ... e"


@axis_rule("aten.embedding_bag", "aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(op: Site) -> list[Dims]:
    """Sums, means or maxima of rows of the table, bag by bag."""
    rows, features = op.dims()
    op.lock([rows, *(dim for dims in op.operands()[1:] for dim in dims)], "rows in bags")
    made = [op.fresh(i, "rows in bags") for i in range(len(op.op.outputs))]
    # Of the further results only the rows that maxima were taken from go by features.
    wide = len(op.shape()) == 2 and op.shape()[1] > 1
    return [
        [*dims[:1], features] if len(dims) == 2 and wide and i in (0, 3) else dims
        for i, dims in enumerate(made)
    ]


def _indices(op: Site, operands: range) -> dict[int, int]:
    """The indexed dimensions, and the operand that indexes each."""
    return {at: i for at, i in enumerate(operands) if op.has(i)}


def _masked(op: Site, given: dict[int, int]) -> bool:
    return any(op.dtype(i) in ("bool", "uint8") for i in given.values())


def _picked(op: Site, given: dict[int, int], new: Dims) -> Dims:
    """What `x[i, :, j]` holds: the indexed dimensions give way to the indices' own."""
    kept = [dim for at, dim in enumerate(op.dims()) if at not in given]
    first, last = min(given), max(given)
    start = first if len(given) == last - first + 1 else 0
    return [*kept[:start], *new, *kept[start:]]


@axis_rule("aten.index")
def index(op: Site) -> list[Dims]:
    """`x[i, :, j]` with tensors of positions; a mask tells nothing of the length it leaves."""
    given = _indices(op, range(1, len(op.op.inputs)))
    if _masked(op, given):
        return op.opaque("a mask selects")
    op.lock([op.dims()[at] for at in given], "indexed")
    return [_picked(op, given, op.broadcast([op.dims(i) for i in given.values()]))]


@axis_rule("aten.index_put")
def index_put(op: Site) -> list[Dims]:
    """`x[i, :, j] = v`: the values are aligned with what `x[i, :, j]` holds."""
    values = len(op.op.inputs) - 1
    given = _indices(op, range(1, values))
    if _masked(op, given):
        return _put_masked(op, given, values)
    new = op.broadcast([op.dims(i) for i in given.values()])
    op.lock([*(op.dims()[at] for at in given), *new], "assigned by index")
    op.broadcast([_picked(op, given, new), op.dims(values)])
    return [op.dims()]


def _put_masked(op: Site, given: dict[int, int], values: int) -> list[Dims]:
    """`x[mask] = v`; with a single value the mask runs in step with what it covers."""
    dims = op.dims()
    if len(given) > 1 or op.rank(values):
        op.opaque("assigned by a mask")
    for at, i in given.items():
        op.broadcast([dims[at : at + op.rank(i)], op.dims(i)])
    return [dims]


@axis_rule("aten.index_select")
def index_select(op: Site) -> list[Dims]:
    """Chosen indices of one dimension."""
    at = op.axis()
    dims = op.dims()
    op.lock([dims[at]], "indexed")
    return [[*dims[:at], op.dims(1)[0] if op.rank(1) else (), *dims[at + 1 :]]]


@axis_rule("aten.index_add", "aten.index_copy", "aten.index_fill", "aten.index_reduce")
def index_assign(op: Site) -> list[Dims]:
    """Assignment to chosen indices of one dimension; the others run in step."""
    at = op.axis()
    dims = op.dims()
    op.lock([dims[at], *op.dims(1)], "assigned by index")
    if op.has(2) and op.rank(2):
        source = op.dims(2)
        op.lock([source[at]], "assigned by index")
        op.broadcast([[*d[:at], (), *d[at + 1 :]] for d in (dims, source)])
    return [dims]


@axis_rule("aten.take")
def take(op: Site) -> list[Dims]:
    """Elements by their place in the flattened tensor."""
    op.lock(op.dims(), "indexed")
    return [op.dims(1)]


@axis_rule("aten.take_along_dim")
def take_along(op: Site) -> list[Dims]:
    """As `gather`; lengths of one broadcast, and without a dimension the tensor is flat."""
    if op.attr("dim") is None:
        return take(op)
    at = op.axis()
    dims, picks = op.dims(), op.dims(1)
    op.lock([dims[at]], "indexed")
    return [op.broadcast([[*dims[:at], (), *dims[at + 1 :]], picks])]


def _heads(op: Site, dims: Dims, like: Dims, shape: tuple[int, ...]) -> None:
    """Make the leading part of each dimension one with another tensor's."""
    op.broadcast([[cut(dim, size)[0] for dim, size in zip(dims, shape, strict=True)], like])


@axis_rule("aten.gather", "GatherElements")
def gather(op: Site) -> list[Dims]:
    """For each position, one index along a dimension; the others run in step."""
    if not op.rank():
        return [[]]
    at = op.axis()
    dims, picks, shape = op.dims(), op.dims(1), op.shape(1)
    op.lock([dims[at]], "indexed")
    others = [i for i in range(op.rank()) if i != at]
    _heads(
        op, [dims[i] for i in others], [picks[i] for i in others], tuple(shape[i] for i in others)
    )
    return [picks]


@axis_rule("aten.scatter", "aten.scatter_add", "aten.scatter_reduce", "Scatter", "ScatterElements")
def scatter(op: Site) -> list[Dims]:
    """Assignment along a dimension by position; the others run in step."""
    at = op.axis()
    dims, picks, shape = op.dims(), op.dims(1), op.shape(1)
    op.lock([dims[at], picks[at]], "assigned by index")
    others = [i for i in range(op.rank()) if i != at]
    _heads(
        op, [dims[i] for i in others], [picks[i] for i in others], tuple(shape[i] for i in others)
    )
    if op.has(2) and op.rank(2):
        _heads(op, op.dims(2), picks, shape)
    return [dims]


@axis_rule("aten.masked_scatter")
def masked_scatter(op: Site) -> list[Dims]:
    """Values are taken in order, wherever the mask holds."""
    op.opaque("assigned by a mask")
    return [op.dims()]


@axis_rule("aten.topk", "TopK")
def topk(op: Site) -> list[Dims]:
    """The largest along a dimension, and their positions."""
    at, dims = op.axis(default=-1), op.dims()
    op.lock(dims[at : at + 1], "positions taken")
    taken = op.fresh(why="positions taken")
    return [[*dims[:at], *taken[at : at + 1], *dims[at + 1 :]]] * 2


@axis_rule("aten.multinomial", "Multinomial", random=True)
def drawn(op: Site) -> list[Dims]:
    """Classes drawn by their weights, any number of them."""
    op.lock(op.dims()[-1:], "positions taken")
    return [[*op.dims()[:-1], op.fresh(why="positions taken")[-1]]]


@axis_rule("aten.one_hot")
def one_hot(op: Site) -> list[Dims]:
    """A new dimension counts the classes."""
    return [[*op.dims(), op.fresh(why="classes counted")[-1]]]


@axis_rule("aten.bucketize", "aten.searchsorted")
def bucketize(op: Site) -> list[Dims]:
    """Positions among sorted boundaries, for each row of them or the same for all."""
    at = op.op.type == "aten.searchsorted"
    values, bounds = op.dims(int(at)), op.dims(int(not at))
    op.lock(bounds[-1:], "positions taken")
    return [op.broadcast([values, [*bounds[:-1], ()]])]


@axis_rule("Gather", does="look up")
def onnx_gather(op: Site) -> list[Dims]:
    """ONNX: chosen indices of one dimension; a single one that is known must stay."""
    dims, at, index = op.dims(), op.axis("axis", default=0), op.attr("indices")
    shape = op.attr("run")
    if shape is not None:  # the first indices in their order, under a new shape
        taken, _ = cut(dims[at], prod(shape))
        made = regroup([taken], shape, f"sizes do not divide at {op.op.name}")
        op.resize("run", list(made))
        return [[*dims[:at], *made, *dims[at + 1 :]]]
    if index is None:
        op.lock([dims[at]], "indexed")
        return [[*dims[:at], *op.dims(1), *dims[at + 1 :]]]
    several = isinstance(index, list)
    size = length(dims[at])
    place = (index[0] if several else index) % size
    before, _, after = cut_all(dims[at], (place, 1, size - 1 - place))
    held = FromEnd(concat([(), after])) if (index[0] if several else index) < 0 else before
    op.resize("indices", [held] if several else held)
    return [[*dims[:at], *([()] if several else []), *dims[at + 1 :]]]


@axis_rule("GatherND")
def gather_nd(op: Site) -> list[Dims]:
    """Places given by tuples of positions in the leading dimensions, behind the batch ones."""
    batch, depth = op.attr("batch_dims", default=0), op.shape(1)[-1]
    dims, picks = op.dims(), op.dims(1)
    op.lock([*dims[batch : batch + depth], picks[-1]], "indexed")
    op.broadcast([dims[:batch], picks[:batch]])
    return [[*picks[:-1], *dims[batch + depth :]]]


@axis_rule("ScatterND")
def scatter_nd(op: Site) -> list[Dims]:
    """Assignment to places given by tuples of positions in the leading dimensions."""
    depth, dims, picks, values = op.shape(1)[-1], op.dims(), op.dims(1), op.dims(2)
    op.lock([*dims[:depth], *picks, *values[: len(picks) - 1]], "assigned by index")
    op.broadcast([dims[depth:], values[len(picks) - 1 :]])
    return [dims]


@axis_rule("OneHot")
def onnx_one_hot(op: Site) -> list[Dims]:
    """ONNX: a new dimension, anywhere, counts the classes."""
    at = op.axis("axis", default=-1, rank=op.rank() + 1)
    made = op.fresh(why="classes counted")[at]
    op.lock(op.dims(2), "two values")
    return [[*op.dims()[:at], made, *op.dims()[at:]]]


@axis_rule("ReverseSequence")
def reverse_sequence(op: Site) -> list[Dims]:
    """The head of each sequence is reversed; a length for each sample of the batch."""
    dims = op.dims()
    op.lock([dims[op.attr("time_axis", default=0)]], "order matters")
    op.broadcast([[dims[op.attr("batch_axis", default=1)]], op.dims(1)])
    return [dims]
