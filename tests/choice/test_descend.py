"""The compiled budget loop against the plain one."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.choice.constants import COMPILED_FROM_GROUPS
from graphprune.choice.descend import Ladder, Moves, compiled, descend, plain
from graphprune.costs.budget import Budget
from graphprune.costs.counted import Monomials, Polynomial


def _polynomial(rng: np.random.Generator, groups: int, degree: int) -> Polynomial:
    found: Monomials = {(): 17}
    for i in range(groups):
        others = rng.integers(0, groups, rng.integers(0, degree))
        found[tuple(sorted([i, *map(int, others)]))] = int(rng.integers(1, 50))
    return Polynomial(found, groups)


@pytest.mark.parametrize("seed", range(12))
def test_both_ways_find_the_same_counts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.integers(6, 40))
    sizes = rng.integers(4, 200, groups).astype(float)
    costs = {name: _polynomial(rng, groups, d) for name, d in (("params", 3), ("macs", 4))}
    asked = {"params": 0.5, "macs": 0.6} if seed % 2 else {"macs": 0.4}
    budget = Budget(costs, asked, sizes, strict=bool(seed % 3))
    followers = {0: [1, 2], 3: [4]} if seed % 4 else {}
    free = [i for i in range(groups) if i not in (1, 2, 4)]
    start = np.maximum(np.floor(sizes * rng.uniform(0.3, 1.0, groups)), 1)
    for width, held in followers.items():
        for i in held:
            start[i] = start[width] * sizes[i] // sizes[width]
    steps = rng.choice([1.0, 2.0, 8.0], groups)
    moves = Moves(steps, free, np.ones(groups), sizes, sizes, followers, np.zeros(groups, bool))
    before = start.copy()
    expected, found = plain(start, moves, budget), compiled(start, moves, budget)
    np.testing.assert_array_equal(found, expected)
    assert (found != start).any()
    np.testing.assert_array_equal(start, before)
    assert abs(budget.slack(found)) <= abs(budget.slack(start)) or budget.slack(found) >= 0


def test_large_problems_are_compiled_and_other_costs_are_not() -> None:
    rng = np.random.default_rng(0)
    groups = COMPILED_FROM_GROUPS + 6
    sizes = np.full(groups, 64.0)
    polynomial = _polynomial(rng, groups, 2)

    class Opaque:
        def __call__(self, counts: np.ndarray) -> float:
            return polynomial(counts)

        def change(self, counts: np.ndarray, group: int, to: float) -> float:
            return polynomial.change(counts, group, to)

    moves = Moves(
        np.ones(groups), range(groups), np.ones(groups), sizes, sizes, {}, np.zeros(groups, bool)
    )
    found = [
        descend(sizes.copy(), moves, Budget({"macs": cost}, {"macs": 0.3}, sizes))
        for cost in (polynomial, Opaque())
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("groups", [3, COMPILED_FROM_GROUPS + 3])
def test_a_ladder_counts_levels(groups: int) -> None:
    rng = np.random.default_rng(1)
    levels = [np.sort(rng.integers(0, 9, rng.integers(1, 20)) / 8.0) for _ in range(groups)]
    for level in (-1.0, 0.0, 0.5, 0.51, 9.0):
        expected = [(held <= level).sum() for held in levels]
        np.testing.assert_array_equal(Ladder(levels).up_to(level), expected)
