"""Costs of layers that may become two: of the one, or of the two, whichever is less.

A layer of m inputs and n outputs costs m n as it is, and r (m + n) as two layers with r channels
between them. The two cost less from some r on; above it, the layer stays one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.core.groups import Counts
from graphprune.costs.counted import Polynomial


@dataclass(frozen=True)
class Alternative:
    """One layer, or two.

    Attributes:
        group: The group whose count is the number of channels between the two.
        one: What the layer costs as it is.
        two: What the two cost.
    """

    group: int
    one: Polynomial
    two: Polynomial

    def __call__(self, counts: Counts) -> float:
        """The lesser of both."""
        return min(self.one(counts), self.two(counts))


class Either:
    """A cost of a model some of whose layers may become two.

    Args:
        rest: The cost of all else.
        alternatives: The layers that may become two.
    """

    def __init__(self, rest: Polynomial, alternatives: Sequence[Alternative]) -> None:
        self._rest = rest
        self._alternatives = alternatives
        ones, twos = ([getattr(a, side) for a in alternatives] for side in ("one", "two"))
        self._ones, self._twos = _Sums(ones), _Sums(twos)
        self._touched: list[list[Alternative]] = [[] for _ in rest.rows]
        for held in alternatives:
            for group, rows in enumerate(held.two.rows):
                if len(rows) or len(held.one.rows[group]):
                    self._touched[group].append(held)

    def __call__(self, counts: Counts) -> float:
        """The cost when group i keeps `counts[i]` indices."""
        return self._rest(counts) + float(np.minimum(self._ones(counts), self._twos(counts)).sum())

    def change(self, counts: Counts, group: int, to: float) -> float:
        """By how much the cost changes when one group keeps `to` indices instead."""
        after = counts.copy()
        after[group] = to
        moved = sum(held(after) - held(counts) for held in self._touched[group])
        return self._rest.change(counts, group, to) + moved

    def slopes(self, counts: Counts) -> Counts:
        """By how much the cost grows with each group's count, per index.

        Channels between two layers count even where the layer is still one: they are what it would
        save to have fewer of them.
        """
        total: Counts = self._rest.slopes(counts)
        for held in self._alternatives:
            two = held.two.slopes(counts)
            cheaper = held.two if held.two(counts) < held.one(counts) else held.one
            own = cheaper.slopes(counts)
            own[held.group] = two[held.group]
            total = total + own
        return total


class _Sums:
    """Polynomials of the same groups, all evaluated at once."""

    def __init__(self, polynomials: Sequence[Polynomial]) -> None:
        widest = max((p.ids.shape[1] for p in polynomials), default=1)
        groups = len(polynomials[0].rows) if polynomials else 0
        padded = [
            np.pad(p.ids, ((0, 0), (0, widest - p.ids.shape[1])), constant_values=groups)
            for p in polynomials
        ]
        self._ids = np.concatenate(padded) if padded else np.empty((0, 1), np.int64)
        held = [p.coefficients for p in polynomials]
        self._coefficients = np.concatenate(held) if held else np.empty(0)
        self._owners = np.repeat(np.arange(len(polynomials)), [len(p.ids) for p in polynomials])
        self._number = len(polynomials)

    def __call__(self, counts: Counts) -> Counts:
        values = self._coefficients * np.append(counts, 1.0)[self._ids].prod(axis=1)
        total: Counts = np.zeros(self._number)
        np.add.at(total, self._owners, values)
        return total
