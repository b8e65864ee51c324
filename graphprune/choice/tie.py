"""tie: lengths that a model's code probably assumes equal, kept equal where the budget allows.

Python code often uses one length in place of another that was equal when the model was built:
`x.reshape(B, N, C)` where the inner width is heads x head_dim, `C // num_heads` for head_dim,
`qkv.chunk(3)`. Coupling the two would be wrong: their indices have nothing to do with each other.
Keeping their *counts* in proportion costs little, and the caller's code then runs as it is.

1. Where removable axes are multiplied (heads x head_dim, groups x channels), only one of them
   loses indices: the outermost, which keeps head_dim and with it the fast attention kernels and
   the softmax scale. Where heads are too coarse a step for the budget, it is the innermost; in
   models that are built from a config, preferably neither.
2. Where a weight maps a width onto a product of the same length, the two stay in proportion.
3. So do lengths that the code was found to use in place of one another (`learn`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product, takewhile
from math import gcd
from typing import NamedTuple

from graphprune.core.axes import Axis, Dim, leaves, length, segments
from graphprune.core.groups import Dependencies
from graphprune.core.indices import kept_length
from graphprune.core.relations import Mismatch, Relation, Ties

_OUTERMOST, _INNERMOST, _NEITHER = slice(1), slice(-1, None), slice(0)


def preferences(
    deps: Dependencies,
    learned: Sequence[Relation],
    alike: bool,
    wished: Sequence[Relation] = (),
) -> list[Ties]:
    """Ties to try, the best first.

    Args:
        deps: The analysis.
        learned: Lengths that the code was found to assume equal.
        alike: Whether repeated blocks should keep the same widths.
        wished: Lengths that a config has one number for; these ties are given up first.
    """
    wishes = _preferences(deps, [*learned, *wished], alike)
    for ties in wishes:
        ties.wish = alike and (bool(wished) or not learned)
    rest = _preferences(deps, learned, alike) if wished else []
    for ties in rest if wished else wishes:
        ties.needed = bool(learned)
    return [*wishes, *rest]


def _preferences(deps: Dependencies, learned: Sequence[Relation], alike: bool) -> list[Ties]:
    likely = list(_projections(deps))
    roles = [list(_roles(deps))] if alike else []
    found: list[Ties] = []
    for relations in (*(likely + each for each in roles), *roles, likely, []):
        for varies in (_OUTERMOST, *((_NEITHER,) if relations and alike else ()), _INNERMOST):
            ties = _Builder(deps, varies).ties(relations, learned)
            if ties not in found:
                found.append(ties)
    return found


class _Builder:
    """Ties where only some axes of each product may lose indices: those in a slice of its axes."""

    def __init__(self, deps: Dependencies, varies: slice) -> None:
        self._sizes = [group.size for group in deps.groups]
        self._ids = {group.axis: group.id for group in deps.groups}
        self._frozen: set[int] = set()
        self._leader = list(range(len(self._sizes)))
        for value in deps.source.parameters():
            for factors in (found for dim in deps.dims[value] for found in _products(dim)):
                free = [ids for axis in factors if (ids := list(self._groups((axis,))))]
                if varies != _NEITHER:  # another product may hold these axes in another order
                    free = [ids for ids in free if not self._frozen.issuperset(ids)]
                if len(free) > 1:
                    moving = free[varies]
                    stays = (ids for ids in free if ids not in moving)
                    self._frozen.update(group for ids in stays for group in ids)

    def ties(self, likely: Iterable[Relation], learned: Iterable[Relation]) -> Ties:
        for dim, other in likely:
            self._relate(self._varying(dim), self._varying(other))
        for dim, other in learned:
            first, second = self._varying(dim), self._varying(other)
            if not (first and second):
                self._frozen.update(first, second)
            self._relate(first, second)
        return self._clusters()

    def _groups(self, dim: Dim) -> Iterator[int]:
        """Ids of the groups that a dimension holds, in order."""
        for axis in leaves(dim):
            if axis.parts is not None:
                for part in segments(axis):
                    yield from self._groups(part)
            elif axis in self._ids:
                yield self._ids[axis]

    def _varying(self, dim: Dim) -> list[int]:
        found = dict.fromkeys(self._groups(dim))  # halves of a rotary head_dim are one group
        return [group for group in found if group not in self._frozen]

    def _relate(self, first: Sequence[int], second: Sequence[int]) -> None:
        pairs: Iterable[tuple[int, int]] = zip(first, second, strict=False)
        if [self._sizes[i] for i in first] != [self._sizes[i] for i in second]:
            pairs = product(first, second)  # a sum of segments and a product of the same length
        for a, b in pairs:
            self._leader[self._find(a)] = self._find(b)

    def _find(self, group: int) -> int:
        while self._leader[group] != group:
            group = self._leader[group]
        return group

    def _clusters(self) -> Ties:
        ties = Ties()
        members: dict[int, list[int]] = {}
        for group in range(len(self._sizes)):
            members.setdefault(self._find(group), []).append(group)
        for cluster in members.values():
            if self._frozen.intersection(cluster):
                self._frozen.update(cluster)
            elif len(cluster) > 1:
                unit = gcd(*(self._sizes[group] for group in cluster))
                leader = max(cluster, key=lambda group: self._sizes[group])
                if unit == 1:  # no other lengths are in proportion
                    self._frozen.update(cluster)
                    continue
                ties.steps[leader] = self._sizes[leader] // unit
                ties.followers[leader] = tuple(group for group in cluster if group != leader)
        ties.frozen = self._frozen
        return ties


def _products(dim: Dim) -> Iterator[Sequence[Axis]]:
    """The products in a dimension and in its segments."""
    factors = leaves(dim)
    if len(factors) > 1:
        yield factors
    for axis in factors:
        for part in segments(axis) if axis.parts is not None else ():
            yield from _products(part)


def _projections(deps: Dependencies) -> Iterator[Relation]:
    """A width and a product of the same length that one weight maps onto each other."""
    for value in deps.source.parameters():
        dims = deps.dims[value]
        for width in dims:
            for found in (p for dim in dims if dim is not width for p in _products(dim)):
                if len(leaves(width)) == 1 and length(width) == length(tuple(found)):
                    yield width, tuple(found)


def _roles(deps: Dependencies) -> Iterator[Relation]:
    """Groups with the same part in repeated blocks: their names differ only in numbers."""
    first: dict[tuple[str, int, int], Axis] = {}
    for group in deps.groups:
        held = sum(member.weight is group.members[0].weight for member in group.members)
        role = (re.sub(r"\d+", "*", group.first), group.size, held)
        known = first.setdefault(role, group.axis)
        if known is not group.axis:
            yield (known,), (group.axis,)


def learn(
    deps: Dependencies, counts: Mapping[Axis, int], mismatches: Iterable[Mismatch]
) -> list[Relation]:
    """Pairs of lengths to keep in proportion, from where the narrowed code failed.

    Args:
        deps: The analysis.
        counts: How many indices each axis keeps.
        mismatches: Where the model's code used one length in place of another.
    """
    weights = [
        [_Size(d, leaves(d), length(d), kept_length(d, counts)) for d in deps.dims[v]]
        for v in deps.source.parameters()
    ]
    return [
        (found.dim, _alike(weights, found) if found.other is None else found.other)
        for found in dict.fromkeys(mismatches)
    ]


class _Size(NamedTuple):
    """A dimension of a weight, its axes, and its length before and after."""

    dim: Dim
    axes: Sequence[Axis]
    size: int
    kept: int


def _alike(weights: Sequence[Sequence[_Size]], found: Mismatch) -> Dim:
    """The dimension of a weight whose length the code used: it was as long as the one that failed.

    If there is none, one that lost the same share: a stage may be twice as wide as the one before.
    """
    wanted, size = leaves(found.dim), length(found.dim)
    best: tuple[bool, bool, Dim] | None = None
    for sizes in weights:
        near = any(not set(wanted).isdisjoint(held.axes) for held in sizes)
        for held in sizes:
            share = found.given * held.size == held.kept * size and held.kept < held.size
            rank = (held.size == size, near)
            if share and held.axes != wanted and (best is None or rank > best[:2]):
                best = (*rank, held.dim)
    return best[2] if best is not None else ()


def repeated(deps: Dependencies, relations: Iterable[Relation]) -> Iterator[Relation]:
    """The relations of one block, for every block whose names differ only in numbers.

    Blocks share their code, so what it assumes in one it assumes in all, even where that has not
    failed yet because the lengths happened to be equal.
    """
    names: dict[Axis, str] = {}
    count: Counter[str] = Counter()
    for group in deps.groups:  # one weight may name several
        names[group.axis] = f"{group.first} {count[group.first]}"
        count[group.first] += 1
    axes = {name: axis for axis, name in names.items()}
    for dim, other in relations:
        pair = [names[axis] for axis in (*leaves(dim), *leaves(other)) if axis in names]
        if not len(pair) == 2 == len(leaves(dim)) + len(leaves(other)):
            continue
        block = _common(pair)
        alike = re.compile(re.sub(r"\d+", r"\\d+", re.escape(block)))
        first, second = (name.removeprefix(block) for name in pair)
        for name in axes if block else ():
            found = alike.match(name)
            if found and name == found[0] + first and found[0] + second in axes:
                yield (axes[name],), (axes[found[0] + second],)


def _common(names: Sequence[str]) -> str:
    """The path of the module that all of some weights are in, with a dot; empty for the whole."""
    steps = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{step[0]}." for step in takewhile(lambda held: len(set(held)) == 1, steps))
