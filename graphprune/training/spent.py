"""The cost of a model of which some indices are open, as a number that gradients flow through."""

from __future__ import annotations

import numpy as np
import torch

from graphprune.core.errors import OptionError
from graphprune.core.groups import Dependencies
from graphprune.costs.counted import Polynomial
from graphprune.costs.registry import Counting, cost_name, cost_of


class Spent:
    """The share of a cost that is left, as a function of how many indices of each group are open.

    Args:
        deps: The analysis.
        of: The cost: `"params"`, `"macs"`, `"channels"`, or a registered one that is a polynomial.

    Raises:
        OptionError: The cost is no polynomial, so that nothing can be learned from it.
    """

    def __init__(self, deps: Dependencies, of: str | Counting = "params") -> None:
        self.of = cost_name(of)
        cost = cost_of(deps, self.of)
        if not isinstance(cost, Polynomial):
            raise OptionError(
                f"of={self.of!r} falls in steps: training needs a cost that is a polynomial, "
                "such as 'params' or 'macs'"
            )
        self._ids = torch.as_tensor(cost.ids)
        self._coefficients = torch.as_tensor(cost.coefficients)
        self._whole = cost(deps.sizes())
        if not self._whole:
            raise OptionError(f"of={self.of!r}: the whole model costs nothing")

    def __call__(self, counts: torch.Tensor) -> torch.Tensor:
        """The share of the cost that is left, in [0, 1].

        Args:
            counts: Open indices of each group, a vector; need not be whole numbers.
        """
        padded = torch.cat([counts.double(), counts.new_ones(1, dtype=torch.float64)])
        ids, coefficients = self._ids.to(counts.device), self._coefficients.to(counts.device)
        return (padded[ids].prod(1) * coefficients).sum() / self._whole

    def of_open(self, open_: list[torch.Tensor]) -> float:
        """The share that is left, each group's open indices given as truth values."""
        counts = np.array([float(held.sum()) for held in open_])
        return float(self(torch.as_tensor(counts)))
