"""The axis algebra against brute force: dimensions as explicit lists of positions."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphprune.core.axes import (
    Axis,
    Dim,
    atom,
    atoms,
    concat,
    cut,
    cut_all,
    leaves,
    length,
    lock,
    regroup,
    show,
    split,
    unify,
)
from graphprune.core.indices import Indices, holdings, kept_indices, kept_length

Keep = dict[Axis, Indices]
quick = settings(max_examples=150, deadline=None, derandomize=True)


def _names(dim: Dim) -> list[set[tuple[int, int]]]:
    """For every position of a dimension, the (atom, index) pairs it belongs to, by recursion."""
    factors: list[list[set[tuple[int, int]]]] = []
    for leaf in leaves(dim):
        if leaf.parts is None:
            factors.append([{(leaf.id, i)} for i in range(leaf.size)])
        else:
            factors.append([names for part in leaf.parts for names in _names(part)])
    return [set().union(*combination) for combination in product(*factors)]


def _choice(draw: Any, *dims: Dim) -> Keep:
    """A random choice of indices to keep, for some of the atoms."""
    keep: Keep = {}
    for axis in dict.fromkeys(axis for dim in dims for axis in atoms(dim)):
        if draw(st.booleans()):
            stay = draw(st.sets(st.integers(0, axis.size - 1), min_size=1))
            keep[axis] = np.array(sorted(stay), dtype=np.int64)
    return keep


def _mask(dim: Dim, keep: Keep) -> list[int]:
    """Positions all of whose owners stay."""
    stay = {axis.id: set(kept.tolist()) for axis, kept in keep.items()}
    names = _names(dim)
    return [at for at, owners in enumerate(names) if all(i in stay.get(a, {i}) for a, i in owners)]


def _kept(dim: Dim, keep: Keep) -> list[int]:
    found = kept_indices(dim, keep)
    return list(range(length(dim))) if found is None else found.tolist()


def _consistent(draw: Any, dim: Dim) -> None:
    """A dimension's kept positions are what brute force says, and the lengths agree."""
    keep = _choice(draw, dim)
    assert _kept(dim, keep) == _mask(dim, keep)
    counts = {axis: len(kept) for axis, kept in keep.items()}
    assert kept_length(dim, counts) == len(_mask(dim, keep))


@st.composite
def divisions(draw: Any, size: int) -> list[int]:
    """Sizes whose product is `size`."""
    out: list[int] = []
    while size > 1 and len(out) < 3 and draw(st.booleans()):
        out.append(draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0])))
        size //= out[-1]
    return [*out, size]


@st.composite
def dims_of(draw: Any, size: int, depth: int = 2) -> Dim:
    """A dimension of `size` indices: a nest of products and sums."""
    kind = draw(st.sampled_from(["atom", "product", "sum"])) if depth and size > 1 else "atom"
    if kind == "product":
        parts = [draw(dims_of(n, depth - 1)) for n in draw(divisions(size))]
        return tuple(axis for part in parts for axis in part)
    if kind == "sum":
        at = draw(st.integers(1, size - 1))
        return concat([draw(dims_of(at, depth - 1)), draw(dims_of(size - at, depth - 1))])
    return atom(size)


SIZES = st.sampled_from([2, 3, 4, 6, 8, 12, 16, 18, 24])


@quick
@given(st.data(), SIZES)
def test_kept_indices_equal_brute_force(data: st.DataObject, size: int) -> None:
    dim = data.draw(dims_of(size))
    assert length(dim) == size == len(_names(dim))
    _consistent(data.draw, dim)


@quick
@given(st.data(), SIZES)
def test_holdings_name_the_owner_of_every_position(data: st.DataObject, size: int) -> None:
    dim = data.draw(dims_of(size))
    owners: list[set[tuple[int, int]]] = [set() for _ in range(size)]
    for axis, positions, indices in holdings(dim):
        for at, index in zip(positions.tolist(), indices.tolist(), strict=True):
            owners[at].add((axis.id, index))
    assert owners == _names(dim)


@quick
@given(st.data(), SIZES)
def test_split_keeps_the_order(data: st.DataObject, size: int) -> None:
    dim = data.draw(dims_of(size))
    sizes = data.draw(divisions(size))
    pieces = split(dim, sizes)
    if pieces is not None:
        assert [length(piece) for piece in pieces] == sizes
        assert _names(tuple(axis for piece in pieces for axis in piece)) == _names(dim)
    _consistent(data.draw, dim)


@quick
@given(st.data(), SIZES, st.integers(0, 24))
def test_cut_gives_both_ends(data: st.DataObject, size: int, at: int) -> None:
    dim = data.draw(dims_of(size))
    at = min(at, size)
    head, tail = cut(dim, at)
    assert (length(head), length(tail)) == (at, size - at)
    _consistent(data.draw, dim)
    keep = _choice(data.draw, dim)
    whole = _kept(dim, keep)
    low = _kept(head, keep) if at else []
    high = _kept(tail, keep) if at < size else []
    assert whole == low + [at + i for i in high]


@quick
@given(st.data(), SIZES)
def test_concat_puts_one_after_the_other(data: st.DataObject, size: int) -> None:
    parts = [data.draw(dims_of(n)) for n in (size, 3, 1)]
    whole = concat(parts)
    keep = _choice(data.draw, whole)
    expected = [*_kept(parts[0], keep), *(size + i for i in _kept(parts[1], keep)), size + 3]
    assert _kept(whole, keep) == expected


@quick
@given(st.data(), SIZES)
def test_unified_dimensions_lose_the_same(data: st.DataObject, size: int) -> None:
    a, b = data.draw(dims_of(size)), data.draw(dims_of(size))
    unify(a, b)
    keep = {x: kept for x, kept in _choice(data.draw, a, b).items() if x.reason is None}
    assert _kept(a, keep) == _kept(b, keep)
    _consistent(data.draw, a)
    _consistent(data.draw, b)


@quick
@given(st.data(), SIZES)
def test_regroup_keeps_the_order(data: st.DataObject, size: int) -> None:
    before = [data.draw(dims_of(n)) for n in data.draw(divisions(size))]
    sizes = data.draw(divisions(size))
    after = regroup(before, sizes, "sizes do not divide")
    assert [length(dim) for dim in after] == sizes
    flat = [tuple(axis for dim in dims for axis in dim) for dims in (before, after)]
    keep = {x: kept for x, kept in _choice(data.draw, *flat).items() if x.reason is None}
    assert _kept(flat[0], keep) == _kept(flat[1], keep)


@quick
@given(st.data(), SIZES)
def test_refinements_in_any_order(data: st.DataObject, size: int) -> None:
    pool = [data.draw(dims_of(size)) for _ in range(3)]
    pairs: list[tuple[Dim, Dim]] = []
    for _ in range(data.draw(st.integers(1, 5))):
        dim = data.draw(st.sampled_from(pool))
        kind = data.draw(st.sampled_from(["split", "cut", "unify"]))
        if kind == "split":
            split(dim, data.draw(divisions(size)))
        elif kind == "cut":
            cut(dim, data.draw(st.integers(0, size)))
        else:
            other = data.draw(st.sampled_from(pool))
            unify(dim, other)
            pairs.append((dim, other))
    keep = {x: kept for x, kept in _choice(data.draw, *pool).items() if x.reason is None}
    for a, b in pairs:
        assert _kept(a, keep) == _kept(b, keep)
    for dim in pool:
        assert length(dim) == size
        assert _kept(dim, keep) == _mask(dim, keep)


@pytest.mark.parametrize("groups, channels", [(2, 7), (3, 5), (2, 5), (4, 3)])
def test_half_of_an_odd_channel_shuffle(groups: int, channels: int) -> None:
    g, c = atom(groups), atom(channels)
    shuffled: Dim = (*c, *g)
    size = groups * channels
    low, high = cut(shuffled, size // 2)
    assert (length(low), length(high)) == (size // 2, size - size // 2)
    for axis in dict.fromkeys(atoms(shuffled)):
        if axis.size < 2:
            continue
        keep = {axis: np.arange(axis.size - 1)}
        expected = [*_kept(low, keep), *(size // 2 + i for i in _kept(high, keep))]
        assert _kept(shuffled, keep) == expected == _mask(shuffled, keep)


def test_a_locked_axis_stays_locked_through_refinement() -> None:
    dim = atom(12)
    lock(dim, "first")
    lock(dim, "second")
    split(dim, (3, 4))
    cut(dim, 4)
    other = atom(12)
    unify(dim, other)
    assert {axis.reason for axis in atoms(dim)} == {"first"}
    assert {axis.reason for axis in atoms(other)} == {"first"}


def test_unify_locks_what_does_not_divide() -> None:
    a, b = atom(2) + atom(3), atom(3) + atom(2)
    unify(a, b, "why")
    assert {axis.reason for dim in (a, b) for axis in atoms(dim)} == {"why"}


def test_split_that_does_not_divide() -> None:
    assert split(atom(2) + atom(3), (3, 2)) is None


def test_cut_all_and_show() -> None:
    dim = atom(6)
    parts = cut_all(dim, [1, 2, 3])
    assert [length(part) for part in parts] == [1, 2, 3]
    assert show(dim) == "(1 + 2 + 3)"
    assert show(atom(2) + dim) == "2 x (1 + 2 + 3)"
    assert show(()) == "1"


def test_an_axis_of_one_is_none() -> None:
    assert atom(1) == ()
    assert length(()) == 1
    assert kept_indices((), {}) is None


def test_names_of_an_unrefined_axis() -> None:
    dim = atom(2) + atom(2)
    assert prod(axis.size for axis in dim) == 4
    assert [len(owners) for owners in _names(dim)] == [2] * 4
