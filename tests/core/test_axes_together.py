"""The axis algebra at work on many dimensions: whatever was once said of them stays true."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
import numpy.typing as npt
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
    length,
    lock,
    regroup,
    show,
    split,
    unify,
)
from graphprune.core.indices import Indices, holdings, kept_indices, kept_length

Keep = dict[Axis, Indices]
Mask = npt.NDArray[np.bool_]
STEPS = "atom concat concat cut unify unify unify split regroup regroup transpose lock"
SIZES = (2, 3, 4, 6)  # few, so that equal lengths meet


def mask(dim: Dim, keep: Keep) -> Mask:
    """Which positions survive, by way of who owns what: a second opinion on `kept_indices`."""
    out = np.ones(length(dim), dtype=bool)
    for axis, positions, owners in holdings(dim):
        if axis in keep:
            out[positions] &= np.isin(owners, keep[axis])
    return out


def outer(dims: list[Dim], keep: Keep) -> Mask:
    """Which elements of a tensor survive, row by row."""
    out = np.ones(1, dtype=bool)
    for dim in dims:
        out = (out[:, None] & mask(dim, keep)[None, :]).ravel()
    return out


class World:
    """Dimensions, and everything that was ever said of them."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.dims: list[tuple[Dim, int]] = []
        self.facts: list[tuple[str, Callable[[Keep], bool]]] = []

    def add(self, dim: Dim) -> Dim:
        self.dims.append((dim, length(dim)))
        return dim

    def pick(self) -> Dim:
        return self.data.draw(st.sampled_from([dim for dim, _ in self.dims]))

    def fact(self, name: str, holds: Callable[[Keep], bool]) -> None:
        self.facts.append((name, holds))

    def step(self) -> None:
        getattr(self, "_" + self.data.draw(st.sampled_from(STEPS.split())))()

    def check(self) -> None:
        free = dict.fromkeys(
            axis for dim, _ in self.dims for axis in atoms(dim) if axis.reason is None
        )
        for _ in range(3):
            keep = {
                axis: np.array(
                    sorted(self.data.draw(st.sets(st.integers(0, axis.size - 1), min_size=1))),
                    dtype=np.int64,
                )
                for axis in free
                if self.data.draw(st.booleans())
            }
            for dim, size in self.dims:
                self._agree(dim, size, keep)
            for name, holds in self.facts:
                assert holds(keep), name

    @staticmethod
    def _agree(dim: Dim, size: int, keep: Keep) -> None:
        assert length(dim) == size
        kept = kept_indices(dim, keep)
        expected = np.flatnonzero(mask(dim, keep))
        found = np.arange(size) if kept is None else kept
        assert np.array_equal(found, expected)
        assert kept_length(dim, {axis: len(some) for axis, some in keep.items()}) == len(expected)

    def _atom(self) -> None:
        self.add(atom(self.data.draw(st.sampled_from(SIZES))))

    def _concat(self) -> None:
        parts = [self.pick() for _ in range(self.data.draw(st.integers(1, 3)))]
        whole = self.add(concat(parts))
        self.fact(
            "concat",
            lambda k: np.array_equal(mask(whole, k), np.concatenate([mask(p, k) for p in parts])),
        )

    def _cut(self) -> None:
        whole = self.pick()
        at = self.data.draw(st.integers(0, length(whole)))
        left, right = cut(whole, at)
        assert (length(left), length(right)) == (at, length(whole) - at)
        for dim in (left, right):
            if length(dim):
                self.add(dim)
        self.fact(
            "cut",
            lambda k: (
                np.array_equal(mask(left, k), mask(whole, k)[:at])
                and np.array_equal(mask(right, k), mask(whole, k)[at:])
            ),
        )

    def _unify(self) -> None:
        lengths = [size for _, size in self.dims]
        often = [size for size in lengths if lengths.count(size) > 1] or lengths
        wanted = self.data.draw(st.sampled_from(often))
        same = [dim for dim, size in self.dims if size == wanted]
        one = self.data.draw(st.sampled_from(same))
        other = self.data.draw(st.sampled_from(same))
        unify(one, other)
        self.fact("unify", lambda k: np.array_equal(mask(one, k), mask(other, k)))

    def _split(self) -> None:
        whole = self.pick()
        lead = self.data.draw(st.sampled_from(divisors(length(whole))))
        parts = split(whole, (lead, length(whole) // lead))
        if parts is not None:
            assert [length(part) for part in parts] == [lead, length(whole) // lead]
            for part in parts:
                self.add(part)
            self.fact("split", lambda k: np.array_equal(outer(parts, k), mask(whole, k)))

    def _regroup(self) -> None:
        dims = [self.pick() for _ in range(self.data.draw(st.integers(1, 3)))]
        total, sizes = prod(length(dim) for dim in dims), []
        if total > 2000:
            return
        while total > 1 and len(sizes) < 3:
            sizes.append(self.data.draw(st.sampled_from(divisors(total))))
            total //= sizes[-1]
        sizes.append(total)
        out = regroup(dims, sizes, "no fit")
        back = regroup(out, [length(dim) for dim in dims], "no fit")
        assert [length(dim) for dim in out] == sizes
        for dim in (*out, *back):
            self.add(dim)
        self.fact("regroup", lambda k: np.array_equal(outer(out, k), outer(dims, k)))
        self.fact(
            "and back", lambda k: all(map(np.array_equal, *(masks(d, k) for d in (back, dims))))
        )

    def _transpose(self) -> None:
        """A channel shuffle: two factors change places."""
        whole = self.pick()
        lead = self.data.draw(st.sampled_from(divisors(length(whole))))
        rows, columns = regroup([whole], (lead, length(whole) // lead), "no fit")
        shuffled = self.add(regroup([columns, rows], [length(whole)], "no fit")[0])
        shape = (lead, length(whole) // lead)
        self.fact(
            "transpose",
            lambda k: np.array_equal(mask(shuffled, k), mask(whole, k).reshape(shape).T.ravel()),
        )

    def _lock(self) -> None:
        dim = self.pick()
        lock(dim, "asked for")
        self.fact("lock", lambda k: bool(mask(dim, k).all()))


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def masks(dims: list[Dim], keep: Keep) -> list[Mask]:
    return [mask(dim, keep) for dim in dims]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.data())
def test_what_was_said_stays_true(data: st.DataObject) -> None:
    world = World(data)
    for size in data.draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=4)):
        world.add(atom(size))
    for _ in range(data.draw(st.integers(3, 14))):
        world.step()
    world.check()


def test_sums_unify_over_their_common_boundaries() -> None:
    a, b, c, d = atom(2), atom(7), atom(4), atom(5)
    unify(concat([a, b]), concat([c, d]))
    assert [show(dim) for dim in (a, b, c, d)] == ["2", "(2 + 5)", "(2 + 2)", "5"]
    assert list(atoms(a)) == list(atoms(c))[:1]
    assert list(atoms(b)) == [list(atoms(c))[1], *atoms(d)]


@pytest.mark.parametrize(
    "old, new", [((0, 4), (0, 2, 2)), ((2, 0), (0,)), ((0,), (3, 0)), ((5, 0), (0, 5))]
)
def test_empty_tensors_regroup(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    out = regroup([atom(n) for n in old], new, "no fit")
    assert tuple(length(dim) for dim in out) == new


def test_equal_segments_against_a_factor_fold() -> None:
    q, k, v = atom(8), atom(8), atom(8)
    fused = concat([q, k, v])
    three, width = regroup([fused], (3, 8), "no fit")
    assert list(atoms(q)) == list(atoms(k)) == list(atoms(v)) == list(atoms(width))
    assert not list(atoms(three))  # no segment can go
