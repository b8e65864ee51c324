"""Costs as closed-form polynomials in the axis lengths: no choice needs a second trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from graphprune.core.axes import Axis, Dim, leaves, segments
from graphprune.core.groups import Counts, Dependencies

Monomials: TypeAlias = dict[tuple[int, ...], float]


class Cost(Protocol):
    """A cost as a function of how many indices each group keeps."""

    def __call__(self, counts: Counts) -> float:
        """The cost when group i keeps `counts[i]` indices."""

    def change(self, counts: Counts, group: int, to: float) -> float:
        """By how much the cost changes when one group keeps `to` indices instead."""


@runtime_checkable
class Smooth(Cost, Protocol):
    """A cost that tells what one index more of each group costs."""

    def slopes(self, counts: Counts) -> Counts:
        """By how much the cost grows with each group's count, per index; no count is zero."""


@runtime_checkable
class Staircase(Cost, Protocol):
    """A cost that falls in steps only.

    Attributes:
        step: What counts should be multiples of.
    """

    step: int


class Polynomial:
    """A sum of products of group sizes, evaluated for any choice of sizes at once.

    Args:
        monomials: Coefficient of each product, a product being the sorted ids of its groups,
            each repeated as often as its power.
        groups: Number of groups.

    Attributes:
        ids: The groups of each product, one row for each, padded with the number of groups.
        coefficients: One for each product.
        rows: For each group the products that hold it.
    """

    def __init__(self, monomials: Monomials, groups: int) -> None:
        degree = max((len(ids) for ids in monomials), default=0)
        self.ids = np.full((len(monomials), max(degree, 1)), groups, dtype=np.int64)
        for row, ids in enumerate(monomials):
            self.ids[row, : len(ids)] = ids
        self.coefficients = np.array(list(monomials.values()), dtype=np.float64)
        rows, columns = np.nonzero(self.ids < groups)
        order = np.argsort(self.ids[rows, columns], kind="stable")
        bounds = np.searchsorted(self.ids[rows, columns][order], np.arange(groups + 1))
        self.rows = [np.unique(rows[order[start:stop]]) for start, stop in pairwise(bounds)]

    def __call__(self, counts: Counts) -> float:
        """The cost when group i keeps `counts[i]` indices."""
        padded = np.append(counts, 1.0)
        return float(self.coefficients @ padded[self.ids].prod(axis=1))

    def change(self, counts: Counts, group: int, to: float) -> float:
        """By how much the cost changes when one group keeps `to` indices instead."""
        rows = self.rows[group]
        ids, coefficients = self.ids[rows], self.coefficients[rows]
        padded = np.append(counts, 1.0)
        before = coefficients @ padded[ids].prod(axis=1)
        padded[group] = to
        return float(coefficients @ padded[ids].prod(axis=1) - before)

    def __mul__(self, factor: float) -> Polynomial:
        """The cost in another unit."""
        out = Polynomial({}, len(self.rows))
        out.ids, out.rows, out.coefficients = self.ids, self.rows, self.coefficients * factor
        return out

    __rmul__ = __mul__

    def __add__(self, other: Polynomial) -> Polynomial:
        """The sum of two costs of the same groups."""
        groups = len(self.rows)
        total: Monomials = {}
        for held in (self, other):
            for ids, coefficient in zip(held.ids.tolist(), held.coefficients, strict=True):
                key = tuple(i for i in ids if i < groups)
                total[key] = total.get(key, 0) + float(coefficient)
        return Polynomial(total, groups)

    def slopes(self, counts: Counts) -> Counts:
        """By how much the cost grows with each group's count, per index; no count is zero."""
        values = np.append(counts, 1.0)[self.ids]
        each = (self.coefficients * values.prod(axis=1))[:, None] / values
        total = np.zeros(len(counts) + 1)
        np.add.at(total, self.ids, each)
        return total[: len(counts)]


def params(deps: Dependencies) -> Polynomial:
    """Elements of all parameters, tied ones once, with those that were not captured."""
    dims = (deps.dims[value] for value in deps.source.parameters())
    return _polynomial(deps, dims, deps.source.outside)


def macs(deps: Dependencies) -> Polynomial:
    """Multiply-accumulates of one forward pass of what was captured, for its whole batch."""
    return _polynomial(deps, (p for op in deps.source.ops for p in deps.effects[op].macs))


def channels(deps: Dependencies) -> Polynomial:
    """Indices of all groups."""
    return Polynomial({(group.id,): 1 for group in deps.groups}, len(deps.groups))


def _polynomial(
    deps: Dependencies, products: Iterable[Iterable[Dim]], constant: int = 0
) -> Polynomial:
    ids = {group.axis: group.id for group in deps.groups}
    return Polynomial(monomials(products, ids, constant), len(ids))


def monomials(
    products: Iterable[Iterable[Dim]], ids: Mapping[Axis, int], constant: int = 0
) -> Monomials:
    """The sum of products of dimensions, as a polynomial in the sizes of the groups `ids`."""
    total: Monomials = {(): constant} if constant else {}
    for product in products:
        for key, coefficient in _expand(product, ids).items():
            total[key] = total.get(key, 0) + coefficient
    return total


def _expand(product: Iterable[Dim], ids: Mapping[Axis, int]) -> Monomials:
    out: Monomials = {(): 1}
    for dim in product:
        for axis in leaves(dim):
            out = _times(out, _leaf(axis, ids))
    return out


def _leaf(axis: Axis, ids: Mapping[Axis, int]) -> Monomials:
    if axis.parts is None:
        return {(ids[axis],): 1} if axis in ids else {(): axis.size}
    out: Monomials = {}
    for part in segments(axis):
        for key, coefficient in _expand([part], ids).items():
            out[key] = out.get(key, 0) + coefficient
    return out


def _times(a: Monomials, b: Monomials) -> Monomials:
    if len(b) == 1:
        ((key, factor),) = b.items()
        if not key:
            return {k: c * factor for k, c in a.items()}
    out: Monomials = {}
    for k, c in a.items():
        for key, factor in b.items():
            both = tuple(sorted(k + key))
            out[both] = out.get(both, 0) + c * factor
    return out
