"""Sums of axes: concatenation, stacking, splitting, slicing and padding."""

from __future__ import annotations

from graphprune.axes import Dim, atom, concat, cut_all, length, split
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Dims, Site


@axis_rule("aten.cat", "aten.concat", "aten.concatenate")
def cat(op: Site) -> list[Dims]:
    """One dimension is the sum of the operands'; the others are shared."""
    operands = [dims for dims in op.operands() if [length(d) for d in dims] != [0]]
    at = op.axis(default=0, rank=len(operands[0]))
    rest = op.broadcast([[*dims[:at], (), *dims[at + 1 :]] for dims in operands])
    return [[*rest[:at], concat([dims[at] for dims in operands]), *rest[at + 1 :]]]


@axis_rule("aten.stack")
def stack(op: Site) -> list[Dims]:
    """A new dimension, each index of which is one operand."""
    dims = op.broadcast(op.operands())
    at = op.axis(default=0, rank=len(dims) + 1)
    return [[*dims[:at], concat([()] * len(op.op.inputs)), *dims[at:]]]


@axis_rule(
    "aten.split",
    "aten.chunk",
    "aten.split_with_sizes",
    "aten.tensor_split",
    "aten.unsafe_chunk",
    "aten.unsafe_split",
    "aten.split_copy",
    "aten.split_with_sizes_copy",
)
def split_into(op: Site) -> list[Dims]:
    """The dimension becomes the sum of the results'."""
    at = op.axis(default=0)
    dims = op.dims()
    parts = cut_all(dims[at], [value.shape[at] for value in op.op.outputs])
    op.resize("split_sizes", list(parts))
    return [[*dims[:at], part, *dims[at + 1 :]] for part in parts]


@axis_rule("aten.unbind")
def unbind(op: Site) -> list[Dims]:
    """Each index of a dimension becomes a result: none of them can go."""
    at = op.axis(default=0)
    dims = op.dims()
    cut_all(dims[at], [1] * op.shape()[at])
    return [[*dims[:at], *dims[at + 1 :]] for _ in op.op.outputs]


def _segment(dim: Dim, start: int, stop: int) -> tuple[Dim, Dim]:
    """The part of a dimension before `start`, and the part from there to `stop`."""
    before, inside, _ = cut_all(dim, (start, stop - start, length(dim) - stop))
    return before, inside


@axis_rule("aten.select")
def select(op: Site) -> list[Dims]:
    """One index of a dimension: it must stay."""
    at, size = op.axis(), op.shape()[op.axis()]
    index = op.attr("index")
    dims = op.dims()
    before, _ = _segment(dims[at], index % size, index % size + 1)
    if index > 0:
        op.resize("index", before)
    return [[*dims[:at], *dims[at + 1 :]]]


@axis_rule("aten.slice", "aten.narrow")
def sliced(op: Site) -> list[Dims]:
    """A segment of a dimension, or every s-th index of it."""
    at, size = op.axis(default=0), op.shape()[op.axis(default=0)]
    dims = op.dims()
    start = op.attr("start", default=0)
    start = max(start + size, 0) if start < 0 else min(start, size)
    if op.attr("step", default=1) != 1:
        kept = _every(op, dims[at], start)
    else:
        kept = _run(op, dims[at], start, start + op.out_shape()[at])
    if kept is None:
        op.lock([dims[at]], "a step does not divide the dimension")
        kept = op.fresh(why="sliced with a step")[at]
    return [[*dims[:at], kept, *dims[at + 1 :]]]


def _run(op: Site, dim: Dim, start: int, stop: int) -> Dim:
    size = length(dim)
    if stop <= start:
        return atom(0)
    before, inside = _segment(dim, start, stop)
    if start > 0:
        op.resize("start", before)
    if stop < size:
        op.resize("end", concat([before, inside]) if start else inside)
        op.resize("length", inside)
    return inside


def _every(op: Site, dim: Dim, start: int) -> Dim | None:
    """`x[start::step]`: the outer factor of a dimension that the step divides."""
    step, size = op.attr("step"), length(dim)
    end = op.attr("end", default=size)
    taken = op.out_shape()[op.axis(default=0)]
    if size % step or start >= step or taken != size // step:
        return None
    parts = split(dim, (taken, step))
    if parts is None:
        return None
    op.lock([parts[1]], "one index of every step taken")
    if 0 < end <= size:
        op.resize("end", dim)
    return parts[0]


@axis_rule("aten.pad", "aten.constant_pad_nd")
def pad(op: Site) -> list[Dims]:
    """Zero padding adds segments at both ends; other modes look at their neighbours."""
    widths = op.attr("pad")
    dims = list(op.dims())
    sizes: list[Dim | None] = []
    for i, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        at = op.rank() - 1 - i
        mode = op.attr("mode", default="constant")
        if mode != "constant" or before < 0 or after < 0:
            if before or after:
                op.lock([dims[at]], f"{mode} padding")
                dims[at] = op.fresh(why="padded")[at]
            sizes += [None, None]
            continue
        ends = atom(before) if before else None, atom(after) if after else None
        sizes += ends
        dims[at] = concat([d for d in (ends[0], dims[at], ends[1]) if d is not None])
    op.resize("pad", sizes)
    return [dims]
