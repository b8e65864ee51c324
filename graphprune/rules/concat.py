"""Sums of axes: concatenation, stacking, splitting, slicing and padding."""

from __future__ import annotations

from graphprune.core.axes import Dim, atom, concat, cut_all, length, split
from graphprune.core.effect import Dims, FromEnd
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

VARYING = "varying"
"""Which entries of the arguments that cut a dimension are others for inputs of other sizes."""

_MOVES = "cut at a place that follows the sizes of inputs"


@axis_rule("aten.cat", "aten.concat", "aten.concatenate", "Concat", does="join")
def cat(op: Site) -> list[Dims]:
    """One dimension is the sum of the operands'; the others are shared."""
    operands = [dims for dims in op.operands() if [length(d) for d in dims] != [0]]
    at = op.axis(default=0, rank=len(operands[0]))
    return [_concatenated(op, operands, at)]


@axis_rule("aten.hstack", "aten.vstack")
def stacked(op: Site) -> list[Dims]:
    """Concatenation along the first dimension, or the second of those that have one."""
    rank = len(op.out_shape())
    at = 1 if op.op.type == "aten.hstack" and rank > 1 else 0
    operands: list[Dims] = [[*[()] * (rank - len(dims)), *dims] for dims in op.operands()]
    return [_concatenated(op, operands, at)]


def _concatenated(op: Site, operands: list[Dims], at: int) -> Dims:
    rest = op.broadcast([[*dims[:at], (), *dims[at + 1 :]] for dims in operands])
    return [*rest[:at], concat([dims[at] for dims in operands]), *rest[at + 1 :]]


@axis_rule("aten.stack", does="stack")
def stack(op: Site) -> list[Dims]:
    """A new dimension, each index of which is one operand."""
    dims = op.broadcast(op.operands())
    at = op.axis(default=0, rank=len(dims) + 1)
    return [[*dims[:at], concat([()] * len(op.op.inputs)), *dims[at:]]]


@axis_rule("aten.split_with_sizes_copy", "Split", does="cut")
@axis_rule(
    "aten.split",
    "aten.chunk",
    "aten.split_with_sizes",
    "aten.tensor_split",
    "aten.unsafe_chunk",
    "aten.unsafe_split",
    "aten.unsafe_split_with_sizes",
    view=True,
    does="cut",
)
def split_into(op: Site) -> list[Dims]:
    """The dimension becomes the sum of the results'."""
    at = op.axis(default=0)
    dims = op.dims()
    if op.attr(VARYING, default=()):
        op.lock([dims[at]], _MOVES)
    parts = cut_all(dims[at], [value.shape[at] for value in op.op.outputs])
    op.resize("split" if op.op.type == "Split" else "split_sizes", list(parts))
    return [[*dims[:at], part, *dims[at + 1 :]] for part in parts]


@axis_rule("aten.unbind", view=True)
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


@axis_rule("aten.select", view=True, does="cut")
def select(op: Site) -> list[Dims]:
    """One index of a dimension: it must stay."""
    dims = list(op.dims())
    _chosen(op, dims.pop(op.axis()))
    return [dims]


@axis_rule("aten.select_scatter")
def select_scatter(op: Site) -> list[Dims]:
    """One index of a dimension is replaced."""
    dims, at = op.dims(), op.axis()
    _chosen(op, dims[at])
    rest = op.broadcast([[*dims[:at], *dims[at + 1 :]], op.dims(1)])
    return [[*rest[:at], dims[at], *rest[at:]]]


def _chosen(op: Site, dim: Dim) -> None:
    size, index = length(dim), op.attr("index")
    before, _, after = cut_all(dim, (index % size, 1, size - 1 - index % size))
    op.resize("index", FromEnd(concat([(), after])) if index < 0 else before)


@axis_rule("aten.slice", "aten.narrow", view=True, does="cut")
def sliced(op: Site) -> list[Dims]:
    """A segment of a dimension, or every s-th index of it."""
    at = op.axis(default=0)
    dims = op.dims()
    taken = _taken(op, dims[at], op.out_shape()[at])
    return [[*dims[:at], taken, *dims[at + 1 :]]]


@axis_rule("aten.slice_scatter")
def slice_scatter(op: Site) -> list[Dims]:
    """A segment of a dimension, or every s-th index of it, is replaced."""
    at = op.axis(default=0)
    dims = op.dims()
    taken = _taken(op, dims[at], op.shape(1)[at])
    rest = op.broadcast([[*dims[:at], taken, *dims[at + 1 :]], op.dims(1)])
    return [[*rest[:at], dims[at], *rest[at + 1 :]]]


def _taken(op: Site, dim: Dim, count: int) -> Dim:
    """The part of a dimension that a slice of `count` indices takes."""
    size, start = length(dim), op.attr("start", default=0)
    first = max(start + size, 0) if start < 0 else min(start, size)
    if count == 0:
        return atom(0)
    if op.attr("step", default=1) == 1:
        return _run(op, dim, first, first + count)
    taken = _every(op, dim, first, count)
    if taken is None:
        op.lock([dim], "a step does not divide the dimension")
        taken = atom(count, f"sliced with a step at {op.op.name}")
    return taken


def _run(op: Site, dim: Dim, start: int, stop: int) -> Dim:
    size = length(dim)
    before, inside, after = cut_all(dim, (start, stop - start, size - stop))
    given, end = op.attr("start", default=0), op.attr("end", default=size)
    op.resize("start", FromEnd(concat([inside, after])) if given < 0 else before)
    if stop < size:
        op.resize("end", FromEnd(after) if end < 0 else concat([before, inside]))
    op.resize("length", inside)
    return inside


def _every(op: Site, dim: Dim, start: int, count: int) -> Dim | None:
    """`x[start::step]`: the outer factor of a dimension that the step divides."""
    step, size = op.attr("step"), length(dim)
    end = op.attr("end", default=size)
    if size % step or not 0 <= op.attr("start", default=0) < step or count != size // step:
        return None
    parts = split(dim, (count, step))
    if parts is None:
        return None
    op.lock([parts[1]], "one index of every step taken")
    if 0 < end <= size:
        op.resize("end", dim)
    return parts[0]


@axis_rule("aten.pad", "aten.constant_pad_nd")
def pad(op: Site) -> list[Dims]:
    """Constant padding adds segments at both ends; other modes look at their neighbours.

    A negative width takes a segment away, which keeps its length.
    """
    widths = op.attr("pad")
    mode = op.attr("mode", default="constant")
    dims = list(op.dims())
    sizes: list[Dim | None] = []
    for i, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        at = op.rank() - 1 - i
        if mode != "constant" and (before or after):
            op.lock([dims[at]], f"{mode} padding")
            dims[at] = op.fresh(why="padded")[at]
            sizes += [None, None]
            continue
        dims[at], ends = _padded(op, dims[at], before, after)
        sizes += ends
    op.resize("pad", sizes)
    return [dims]


def _padded(op: Site, dim: Dim, before: int, after: int) -> tuple[Dim, list[Dim | None]]:
    """A dimension with segments added or taken away at both ends, and those that are added."""
    gone = max(-before, 0), max(-after, 0)
    first, kept, last = cut_all(dim, (gone[0], length(dim) - sum(gone), gone[1]))
    op.lock([first, last], "cut off")
    ends = [atom(width) if width > 0 else None for width in (before, after)]
    return concat([d for d in (ends[0], kept, ends[1]) if d is not None]), ends


@axis_rule("Slice", does="cut")
def onnx_slice(op: Site) -> list[Dims]:
    """ONNX: segments of several dimensions at once."""
    dims = list(op.dims())
    starts, ends = op.attr("starts"), op.attr("ends")
    axes = op.attr("axes", default=list(range(len(starts))))
    steps = op.attr("steps", default=[1] * len(starts))
    new: list[list[Dim | None]] = [[None] * len(starts), [None] * len(starts)]
    varying = op.attr(VARYING, default=())
    for i, at in enumerate(axes):
        count, dim = op.out_shape()[at], dims[at]
        if i in varying:
            op.lock([dim], _MOVES)
        if steps[i] != 1:
            dims[at] = _stepped(op, dim, starts[i], steps[i], count)
            continue
        if count == length(dim):
            continue
        size = length(dim)
        first = min(max(starts[i] + size if starts[i] < 0 else starts[i], 0), size)
        before, inside, after = cut_all(dim, (first, count, size - first - count))
        new[0][i] = before if starts[i] >= 0 else FromEnd(concat([inside, after]))
        if first + count < size:
            new[1][i] = FromEnd(after) if ends[i] < 0 else concat([before, inside])
        dims[at] = inside
    op.resize("starts", new[0])
    op.resize("ends", new[1])
    return [dims]


def _stepped(op: Site, dim: Dim, start: int, step: int, count: int) -> Dim:
    """`x[start::step]`: the outer factor of a dimension that a positive step divides."""
    size = length(dim)
    if step > 1 and not size % step and 0 <= start < step and count == size // step:
        parts = split(dim, (count, step))
        if parts is not None:
            op.lock([parts[1]], "one index of every step taken")
            if length(parts[0]) > 1:
                op.lock([parts[0]], "sliced with a step")
            return parts[0]
    op.lock([dim], "sliced with a step")
    return atom(count, f"sliced with a step at {op.op.name}")


@axis_rule("Pad")
def onnx_pad(op: Site) -> list[Dims]:
    """ONNX: widths before each dimension, then behind each."""
    widths, mode = op.attr("pads", "paddings"), op.attr("mode", default="constant")
    axes = op.attr("axes", default=list(range(op.rank())))
    dims, half = list(op.dims()), len(widths) // 2
    varying = op.attr(VARYING, default=())
    sizes: list[Dim | None] = [None] * len(widths)
    for i, at in enumerate(axes):
        before, after = widths[i], widths[half + i]
        if i in varying or half + i in varying:
            op.lock([dims[at]], _MOVES)
        if not before and not after:
            continue
        if mode != "constant":
            op.lock([dims[at]], f"{mode} padding")
            dims[at] = op.fresh(why="padded")[at]
            continue
        dims[at], (sizes[i], sizes[half + i]) = _padded(op, dims[at], before, after)
    op.resize("pads" if "pads" in op.op.attrs else "paddings", sizes)
    return [dims]
