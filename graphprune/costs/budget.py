"""What may be spent: one cost or several, each with the fraction of it that has to go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphprune.core.groups import Counts
from graphprune.costs.counted import Cost, Smooth


@dataclass(frozen=True)
class Target:
    """One cost, what it is at full size, and the fraction to remove."""

    name: str
    cost: Cost
    full: float
    ratio: float

    def removed(self, counts: Counts) -> float:
        """The fraction of the cost that is gone."""
        return 1.0 - self.cost(counts) / self.full if self.full else 0.0


class Budget:
    """Fractions of costs to remove; all of them, or at least so much.

    The *slack* of a choice is by how much it removes more than asked, of the cost where that is
    least: zero where the budget is met exactly.

    Args:
        costs: The costs by name.
        ratios: The fraction of each to remove.
        sizes: The groups' full sizes.
        strict: Whether the ratios are limits: never less may be removed.
    """

    def __init__(
        self,
        costs: Mapping[str, Cost],
        ratios: Mapping[str, float],
        sizes: Counts,
        strict: bool = False,
    ) -> None:
        self.targets = [
            Target(name, costs[name], costs[name](sizes), ratio) for name, ratio in ratios.items()
        ]
        self.strict = strict

    def slack(self, counts: Counts) -> float:
        """The least of what is removed beyond what was asked."""
        return min(target.removed(counts) - target.ratio for target in self.targets)

    def slopes(self, counts: Counts) -> Counts:
        """What an index of each group costs, as a share of all costs that can tell."""
        total = np.zeros(len(counts))
        for target in self.targets:
            if target.full and isinstance(target.cost, Smooth):
                total += target.cost.slopes(counts) / target.full
        return total

    def spent(self, counts: Counts) -> list[float]:
        """Every cost of a choice."""
        return [target.cost(counts) for target in self.targets]

    def slack_of(self, spent: list[float]) -> float:
        """The slack of known costs."""
        return min(
            (1.0 - cost / target.full if target.full else 0.0) - target.ratio
            for cost, target in zip(spent, self.targets, strict=True)
        )

    def binding(self, counts: Counts) -> Target:
        """The cost whose slack is least."""
        return min(self.targets, key=lambda target: target.removed(counts) - target.ratio)

    def better(self, slack: float, than: float) -> bool:
        """Whether one slack is nearer to what was asked than another."""
        if self.strict and (slack >= 0) != (than >= 0):
            return slack >= 0
        return abs(slack) < abs(than)
