"""What is done about counts that meet a budget, so that less is lost."""

from __future__ import annotations

import numpy as np

from graphprune.choice.exchange import closed


def test_groups_that_only_the_last_steps_opened_are_closed_where_the_budget_is_met_without() -> (
    None
):
    sizes = np.array([10.0, 4.0, 4.0, 8.0])
    near = np.array([6.0, 4.0, 4.0, 8.0])
    counts = np.array([6.0, 3.0, 3.0, 8.0])
    losses = [np.linspace(0, 1, 11), np.linspace(0, 4, 5), np.linspace(0, 8, 5), np.zeros(9)]

    def kept(least: float) -> list[float]:
        found = closed(near, counts, sizes, losses, lambda to: to, lambda to: to.sum() <= least)
        return list(map(float, found))

    assert kept(22) == [6, 4, 4, 8]
    assert kept(21) == [6, 3, 4, 8]  # the one that loses most comes first
    assert kept(20) == [6, 3, 3, 8]
    assert list(counts) == [6, 3, 3, 8]
