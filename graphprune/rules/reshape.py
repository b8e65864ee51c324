"""Products of axes: reshapes, permutations, and broadcasting to a shape."""

from __future__ import annotations

from math import prod

from graphprune.core.axes import atom, regroup
from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site


@axis_rule("aten.view_copy", does="move")
@axis_rule("aten.view", "aten.reshape", "aten._unsafe_view", "Reshape", view=True)
def reshape(op: Site) -> list[Dims]:
    """The same elements in row-major order under a new shape."""
    if prod(op.shape()) != prod(op.out_shape()):  # `view(dtype)`, to a type of another size
        return op.opaque("read as another type")
    out = regroup(op.dims(), op.out_shape(), f"sizes do not divide at {op.op.name}")
    op.resize("size", list(out))
    op.resize("shape", list(out))
    return [out]


@axis_rule(
    *(f"aten.{name}" for name in "flatten unsqueeze view_as reshape_as".split()),
    *"Flatten Unsqueeze".split(),
    view=True,
)
def regrouped(op: Site) -> list[Dims]:
    """Reshapes whose arguments name dimensions, or another operand of that shape."""
    out = regroup(op.dims(), op.out_shape(), f"sizes do not divide at {op.op.name}")
    return [op.broadcast([out, op.dims(1)]) if op.has(1) else out]


@axis_rule("aten.squeeze", "Squeeze", view=True)
def squeeze(op: Site) -> list[Dims]:
    """Dimensions of one index vanish: where none is named, no other may come down to one."""
    if op.attr("dim", "axes", default=None) is None and not op.has(1):
        op.effect.grains.extend((dim, 2) for dim in op.dims() if dim)
    return regrouped(op)


@axis_rule("aten.unflatten", view=True)
def unflatten(op: Site) -> list[Dims]:
    """One dimension becomes several."""
    out = regroup(op.dims(), op.out_shape(), f"sizes do not divide at {op.op.name}")
    at = op.axis()
    op.resize("sizes", list(out[at : at + len(op.attr("sizes"))]))
    return [out]


@axis_rule("aten.permute_copy", "Transpose", does="move")
@axis_rule("aten.permute", view=True)
def permute(op: Site) -> list[Dims]:
    """Dimensions in another order; in reverse order where ONNX gives none."""
    return [[op.dims()[d] for d in op.attr("dims", "perm", default=range(op.rank())[::-1])]]


@axis_rule("aten.transpose_copy", does="move")
@axis_rule("aten.transpose", "aten.swapaxes", "aten.swapdims", view=True)
def transpose(op: Site) -> list[Dims]:
    """Two dimensions change places."""
    dims = list(op.dims())
    if dims:
        a, b = op.attr("dim0", "axis0"), op.attr("dim1", "axis1")
        dims[a], dims[b] = dims[b], dims[a]
    return [dims]


@axis_rule("aten.numpy_T", view=True)
def reverse(op: Site) -> list[Dims]:
    """All dimensions in reverse order."""
    return [op.dims()[::-1]]


@axis_rule("aten.t", "aten.mT", "aten.mH", "aten.adjoint", view=True)
def matrix_transpose(op: Site) -> list[Dims]:
    """The last two dimensions change places."""
    dims = op.dims()
    return [[*dims[:-2], *dims[-2:][::-1]]]


@axis_rule("aten.movedim", "aten.moveaxis", view=True)
def movedim(op: Site) -> list[Dims]:
    """Dimensions move; the others keep their order."""
    source, target = op.attr("source"), op.attr("destination")
    pairs = zip(*(x if isinstance(x, list | tuple) else [x] for x in (source, target)), strict=True)
    moves = {t % op.rank(): s % op.rank() for s, t in pairs}
    rest = iter(i for i in range(op.rank()) if i not in moves.values())
    dims = op.dims()
    return [[dims[moves[i]] if i in moves else dims[next(rest)] for i in range(op.rank())]]


@axis_rule("aten.expand_copy", "Expand")
@axis_rule("aten.expand", "aten.broadcast_to", "aten.expand_as", view=True)
def expand(op: Site) -> list[Dims]:
    """Lengths of one grow to a new axis, which follows whoever uses it."""
    shape = op.out_shape()
    dims: Dims = [()] * (len(shape) - op.rank()) + list(op.dims())
    out = [dim if dim else atom(size) for dim, size in zip(dims, shape, strict=True)]
    if op.has(1):  # expand_as: the lengths come from the other operand
        out = op.broadcast([out, op.dims(1)])
    op.resize("size", list(out))
    given = op.attr("shape", default=())  # ONNX: a length of one leaves the operand's as it is
    tail = out[len(out) - len(given) :]
    op.resize("shape", [None if size == 1 else d for size, d in zip(given, tail, strict=True)])
    return [out]


@axis_rule("aten.repeat", "aten.tile", "Tile")
def repeat(op: Site) -> list[Dims]:
    """Each dimension is preceded by a new axis: how often it repeats."""
    shape = op.out_shape()
    dims: Dims = [()] * (len(shape) - op.rank()) + list(op.dims())
    times = [
        atom(size // old)
        for size, old in zip(shape, [1] * (len(shape) - op.rank()) + list(op.shape()), strict=True)
    ]
    op.resize("repeats", list(times))
    op.resize("dims", list(times[len(shape) - len(op.attr("dims", default=shape)) :]))
    return [[t + d for t, d in zip(times, dims, strict=True)]]


@axis_rule("aten.repeat_interleave")
def repeat_interleave(op: Site) -> list[Dims]:
    """Each index is followed by its own copies."""
    at = op.attr("dim")
    if at is None or not isinstance(op.attr("repeats"), int):
        return op.opaque("repeats vary")
    dims = list(op.dims())
    times = atom(op.attr("repeats"))
    dims[at] = dims[at] + times
    op.resize("repeats", times)
    op.resize("output_size", dims[at])
    return [dims]


@axis_rule("aten.meshgrid")
def meshgrid(op: Site) -> list[Dims]:
    """Each operand is one dimension of every result."""
    dims = [d[0] if d else () for d in op.operands()]
    if op.attr("indexing", default="ij") == "xy":
        dims[:2] = dims[:2][::-1]
    return [dims] * len(op.op.outputs)


@axis_rule("aten.unfold", view=True)
def windows(op: Site) -> list[Dims]:
    """Windows over a dimension, each laid along a new last one (`Tensor.unfold`)."""
    at = op.axis("dimension")
    dims, made = op.dims(), op.fresh(why="windows made")
    op.lock([dims[at]], "consumed by a window")
    return [[*dims[:at], made[at], *dims[at + 1 :], made[-1]]]


@axis_rule("aten.view_as_complex", "aten.view_as_real", view=True)
def complex_parts(op: Site) -> list[Dims]:
    """The last dimension holds real and imaginary parts."""
    dims = op.dims()
    if op.op.type == "aten.view_as_real":
        return [[*dims, op.fresh(why="real and imaginary")[-1]]]
    op.lock(dims[-1:], "real and imaginary")
    return [dims[:-1]]


@axis_rule("aten.as_strided", view=True)
def strided(op: Site) -> list[Dims]:
    """Elements at places that strides tell."""
    return op.opaque("read by strides")


@axis_rule("aten.diagonal", view=True)
def diagonal(op: Site) -> list[Dims]:
    """Two dimensions give way to one along their diagonal."""
    return _diagonal(op, op.axis("dim1", default=0), op.axis("dim2", default=1), "offset")


@axis_rule("aten.diag")
def diag(op: Site) -> list[Dims]:
    """A vector becomes the diagonal of a matrix, or the diagonal of a matrix is taken."""
    if op.rank() == 1:
        return _diagonal_of(op, 0, 1, "diagonal")
    return _diagonal(op, 0, 1, "diagonal")


@axis_rule("aten.trace")
def trace(op: Site) -> list[Dims]:
    """The sum of a diagonal."""
    first, second = op.dims()
    if op.shape()[0] == op.shape()[1]:
        op.contract(*op.broadcast([[first], [second]]))
    else:
        op.lock([first, second], "a diagonal")
    return [[]]


@axis_rule("aten.rot90")
def turned(op: Site) -> list[Dims]:
    """A quarter turn: the order along two dimensions changes, and for odd numbers their places."""
    first, second = (d % op.rank() for d in op.attr("dims", default=[0, 1]))
    dims = op.dims()
    op.lock([dims[first], dims[second]], "order matters")
    if op.attr("k", default=1) % 2:
        dims[first], dims[second] = dims[second], dims[first]
    return [dims]


@axis_rule("aten.diag_embed")
def diag_embed(op: Site) -> list[Dims]:
    """The last dimension becomes the diagonal of two."""
    rank = op.rank() + 1
    first = op.axis("dim1", default=-2, rank=rank)
    return _diagonal_of(op, first, op.axis("dim2", default=-1, rank=rank), "offset")


def _diagonal(op: Site, first: int, second: int, beside: str) -> list[Dims]:
    """Take a diagonal: of a square, the same index goes from both sides."""
    dims, shape = op.dims(), op.shape()
    rest = [dim for i, dim in enumerate(dims) if i not in (first, second)]
    if shape[first] == shape[second] and not op.attr(beside, default=0):
        return [[*rest, *op.broadcast([[dims[first]], [dims[second]]])]]
    op.lock([dims[first], dims[second]], "a diagonal")
    return [[*rest, op.fresh(why="a diagonal")[-1]]]


def _diagonal_of(op: Site, first: int, second: int, beside: str) -> list[Dims]:
    """Lay the last dimension along a diagonal."""
    *rest, side = op.dims()
    if op.attr(beside, default=0):
        op.lock([side], "a diagonal")
        made = op.fresh(why="a diagonal")
        sides = (made[first], made[second])
    else:
        sides = (side, side)
    out = list(rest)
    for at, dim in sorted([(first, sides[0]), (second, sides[1])], key=lambda pair: pair[0]):
        out.insert(at, dim)
    return [out]
