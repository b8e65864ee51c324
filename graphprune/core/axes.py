"""The axis algebra: type inference over tensor dimensions.

A dimension (`Dim`) is a row-major product of *axes*; two dimensions that must keep the same
length and index order share their axes. An axis starts as an *atom* of n indices and may later
be refined, for all who hold it, into a *product* of axes (what a reshape does) or a *sum* of
segments (what concatenation, splitting, slicing and padding do). A dimension of length one
holds no axes, which settles broadcasting.

The operations never raise and never guess: where two dimensions cannot be reconciled, the axes
of both are locked, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import TypeAlias

_ids = count()
_MOST_ROWS = 256  # sums are folded row by row up to here; beyond, the axis is locked


class Axis:
    """One factor of a dimension: an atom, a product of axes, or a sum of segments.

    Attributes:
        id: Creation order; gives every listing a fixed order.
        size: Number of indices.
        reason: Why the axis is locked, or None while its indices may be removed.
    """

    __slots__ = ("_same", "factors", "id", "parts", "reason", "size")

    def __init__(self, size: int, reason: str | None = None) -> None:
        self.id = next(_ids)
        self.size = size
        self.reason = reason
        self.factors: Dim | None = None
        self.parts: tuple[Dim, ...] | None = None
        self._same: Axis | None = None

    def find(self) -> Axis:
        """The axis that stands for this one since they were unified."""
        axis = self
        while axis._same is not None:
            if axis._same._same is not None:
                axis._same = axis._same._same
            axis = axis._same
        return axis

    def __repr__(self) -> str:
        return show((self,))


Dim: TypeAlias = tuple[Axis, ...]


def atom(size: int, reason: str | None = None) -> Dim:
    """A new dimension of `size` indices that nothing else shares."""
    return () if size == 1 else (Axis(size, reason),)


def length(dim: Dim) -> int:
    """Number of indices of a dimension."""
    size = 1
    for axis in dim:
        size *= axis.size
    return size


def leaves(dim: Iterable[Axis]) -> list[Axis]:
    """The atoms and sums that a dimension is the row-major product of."""
    out: list[Axis] = []
    for axis in dim:
        axis = axis.find()
        if axis.factors is None:
            out.append(axis)
        else:
            out.extend(leaves(axis.factors))
    return out


def segments(axis: Axis) -> tuple[Dim, ...]:
    """The segments of a sum, flattened: none of them is a sum itself."""
    assert axis.parts is not None
    flat: list[Dim] = []
    for part in axis.parts:
        inner = leaves(part)
        if len(inner) == 1 and inner[0].parts is not None:
            flat.extend(segments(inner[0]))
        else:
            flat.append(tuple(inner))
    axis.parts = tuple(flat)
    return axis.parts


def atoms(dim: Dim) -> Iterator[Axis]:
    """Every atom in a dimension, repeated as often as it occurs."""
    for axis in leaves(dim):
        if axis.parts is None:
            yield axis
        else:
            for part in segments(axis):
                yield from atoms(part)


def lock(dim: Dim, reason: str) -> None:
    """Forbid removal from every atom of a dimension; the first reason given is kept."""
    for axis in atoms(dim):
        if axis.reason is None:
            axis.reason = reason


def concat(dims: Sequence[Dim]) -> Dim:
    """The sum of dimensions: their indices one after the other."""
    dims = [dim for dim in dims if length(dim) > 0]
    if len(dims) == 1:
        return dims[0]
    total = Axis(sum(length(dim) for dim in dims))
    total.parts = tuple(dims)
    return (total,)


def cut(dim: Dim, at: int) -> tuple[Dim, Dim]:
    """Refine a dimension into its first `at` indices and the rest.

    Where the boundary falls inside one index of the leading factor (a channel shuffle of an
    odd number of channels), that index becomes a segment of its own and the factors behind it
    are cut instead.
    """
    size = length(dim)
    if at in (0, size):
        return (dim, atom(0)) if at else (atom(0), dim)
    lead, *rest = leaves(dim)
    tail = tuple(rest)
    at, inside = divmod(at, length(tail))
    if not inside:
        left, right = _cut_leaf(lead, at)
        return left + tail, right + tail
    left, rest_of_lead = _cut_leaf(lead, at)
    _, right = cut(rest_of_lead, 1)
    low, high = cut(tail, inside)
    return concat([left + tail, low]), concat([high, right + tail])


def cut_all(dim: Dim, sizes: Sequence[int]) -> list[Dim]:
    """Refine a dimension into consecutive segments of the given sizes."""
    out: list[Dim] = []
    for size in sizes[:-1]:
        head, dim = cut(dim, size)
        out.append(head)
    return [*out, dim]


def _cut_leaf(leaf: Axis, at: int) -> tuple[Dim, Dim]:
    if at in (0, leaf.size):
        return ((leaf,), atom(0)) if at else (atom(0), (leaf,))
    if leaf.parts is None:
        left, right = atom(at, leaf.reason), atom(leaf.size - at, leaf.reason)
        leaf.parts = (left, right)
        return left, right
    before: list[Dim] = []
    after: list[Dim] = []
    start = 0
    for part in segments(leaf):
        end = start + length(part)
        low, high = cut(part, min(max(at - start, 0), length(part)))
        before.append(low)
        after.append(high)
        start = end
    before, after = ([part for part in side if length(part)] for side in (before, after))
    leaf.parts = (*before, *after)
    return concat(before), concat(after)


def split(dim: Dim, sizes: Sequence[int]) -> list[Dim] | None:
    """Refine one dimension into a row-major product of dimensions of the given sizes.

    Returns:
        One dimension per size, or None where the sizes do not divide the factors.
    """
    stack = leaves(dim)[::-1]
    out: list[Dim] = []
    for need in sizes:
        taken: list[Axis] = []
        while need > 1:
            axis = stack.pop().find()
            if axis.factors is not None:
                stack.extend(leaves(axis.factors)[::-1])
            elif need % axis.size == 0:
                taken.append(axis)
                need //= axis.size
            else:
                pair = _factor(axis, need) if axis.size % need == 0 else None
                if pair is None:
                    return None
                stack.extend(pair[::-1])
        out.append(tuple(taken))
    return out


def _factor(axis: Axis, lead: int) -> Dim | None:
    """Refine a leaf into the product of `lead` indices and the rest, if that is possible."""
    rest = axis.size // lead
    if axis.parts is None:
        axis.factors = (Axis(lead, axis.reason), Axis(rest, axis.reason))
        return axis.factors
    parts = segments(axis)
    if any(length(part) % rest for part in parts):
        if lead > _MOST_ROWS:
            return None
        parts = tuple(cut_all((axis,), [rest] * lead))  # row by row; no row can go
    # k segments against a factor k: every segment is a multiple of the same inner axis.
    outer: list[Dim] = []
    inner: Dim = ()
    for part in parts:
        piece = split(part, (length(part) // rest, rest))
        if piece is None:
            return None
        outer.append(piece[0])
        if inner:
            unify(inner, piece[1])
        else:
            inner = piece[1]
    axis.factors = concat(outer) + inner
    axis.parts = None
    return axis.factors


def regroup(dims: Sequence[Dim], sizes: Sequence[int], why: str) -> list[Dim]:
    """What a reshape does: the same indices in row-major order under new dimensions.

    Works block by block, a block being the shortest run of dimensions before and after with
    the same number of indices; a block whose sizes do not divide is locked with `why`.
    """
    if 0 in sizes:
        for dim in dims:
            lock(dim, why)
        return [atom(size, why) for size in sizes]
    out: list[Dim] = []
    start = 0
    for i, stop in _blocks([length(dim) for dim in dims], sizes):
        block: Dim = tuple(axis for dim in dims[i[0] : i[1]] for axis in dim)
        pieces = split(block, sizes[start:stop])
        if pieces is None:
            lock(block, why)
            pieces = [atom(size, why) for size in sizes[start:stop]]
        out.extend(pieces)
        start = stop
    return out


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[tuple[int, int], int]]:
    """Runs of equal product in two shapes: ((old start, old stop), new stop)."""
    i = j = 0
    while i < len(old) or j < len(new):
        start = i
        left = right = 1
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        yield (start, i), j


def unify(a: Dim, b: Dim, why: str = "sizes do not divide") -> None:
    """Make two dimensions the same: same length, same index order.

    Walks both factor lists; the larger leading factor is refined by the smaller. Where the
    sizes do not divide, what is left of both sides is locked with `why`.
    """
    if a == b:
        return
    x, y = leaves(a)[::-1], leaves(b)[::-1]
    while x and y:
        p, q = x.pop().find(), y.pop().find()
        if p.factors is not None or q.factors is not None:
            x.extend(leaves((p,))[::-1])
            y.extend(leaves((q,))[::-1])
        elif p is q:
            continue
        elif p.size == q.size:
            _merge(p, q)
        else:
            large, small = (p, q) if p.size > q.size else (q, p)
            if large.size % small.size or _factor(large, small.size) is None:
                x.append(p)
                y.append(q)
                break
            x.extend(leaves((p,))[::-1])
            y.extend(leaves((q,))[::-1])
    lock(tuple(x), why)
    lock(tuple(y), why)


def _merge(p: Axis, q: Axis) -> None:
    """Unify two leaves of the same size."""
    if p.parts is not None and q.parts is not None:
        _align(p, q)
        return
    if q.parts is None and (p.parts is not None or p.id < q.id):
        kept, gone = p, q
    else:
        kept, gone = q, p
    gone._same = kept
    if gone.reason is not None:
        lock((kept,), gone.reason)


def _align(p: Axis, q: Axis) -> None:
    """Unify two sums over the common refinement of their boundaries."""
    x, y = list(segments(p))[::-1], list(segments(q))[::-1]
    common: list[Dim] = []
    while x:
        s, t = x.pop(), y.pop()
        ls, lt = length(s), length(t)
        if ls > lt:
            s, rest = cut(s, lt)
            x.append(rest)
        elif lt > ls:
            t, rest = cut(t, ls)
            y.append(rest)
        unify(s, t)
        common.append(s)
    p.parts = tuple(common)
    q._same = p


def show(dim: Dim) -> str:
    """A dimension as text: `3 x 12 x 64` for products, `(64 + 32)` for sums."""
    names = []
    for axis in leaves(dim):
        if axis.parts is None:
            names.append(str(axis.size))
        else:
            names.append("(" + " + ".join(show(part) for part in segments(axis)) + ")")
    return " x ".join(names) or "1"
