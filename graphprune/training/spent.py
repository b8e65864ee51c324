"""The cost of a model of which some indices are open, as a number that gradients flow through."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from graphprune.core.errors import OptionError
from graphprune.core.groups import Dependencies
from graphprune.costs.counted import Cost, Polynomial
from graphprune.costs.latency import Latency, Timer
from graphprune.costs.registry import MEASURED, Counting, cost_name, cost_of
from graphprune.frontends.backends import backend

STRIDE = 0.125
"""Where a cost has no closed form, its slope along a group is that between so much of the group
less and so much more, at most: times and memory fall in steps, on which the slope itself is 0."""


class Spent:
    """The share of a cost that is left, as a function of how many indices of each group are open.

    Gradients are those of the polynomial, where the cost is one. Elsewhere (latency, memory) the
    slope along each group is that between `STRIDE` of the group less and `STRIDE` more.

    Args:
        deps: The analysis.
        of: The cost: `"params"`, `"macs"`, `"channels"`, `"memory"`, a registered one, or
            `"latency"`: the sum of the measured times of all operations in eager mode.

    Raises:
        OptionError: There is no such cost, or the whole model costs nothing.
    """

    def __init__(self, deps: Dependencies, of: str | Counting = "params") -> None:
        self.of = cost_name(of)
        cost: Cost = (
            Latency(deps, backend("eager"), Timer())
            if self.of == MEASURED
            else cost_of(deps, self.of)
        )
        self._cost, self._sizes = cost, deps.sizes()
        self._whole = cost(self._sizes)
        if not self._whole:
            raise OptionError(f"of={self.of!r}: the whole model costs nothing")
        if isinstance(cost, Polynomial):
            self._ids = torch.as_tensor(cost.ids)
            self._coefficients = torch.as_tensor(cost.coefficients)

    def __call__(self, counts: torch.Tensor) -> torch.Tensor:
        """The share of the cost that is left, in [0, 1].

        Args:
            counts: Open indices of each group, a vector; need not be whole numbers.
        """
        if not isinstance(self._cost, Polynomial):
            found: torch.Tensor = _Sloped.apply(counts.double(), self)
            return found
        padded = torch.cat([counts.double(), counts.new_ones(1, dtype=torch.float64)])
        ids, coefficients = self._ids.to(counts.device), self._coefficients.to(counts.device)
        return (padded[ids].prod(1) * coefficients).sum() / self._whole

    def of_open(self, open_: list[torch.Tensor]) -> float:
        """The share that is left, each group's open indices given as truth values."""
        counts = np.array([float(held.sum()) for held in open_])
        return float(self(torch.as_tensor(counts)))

    def share(self, counts: np.ndarray[Any, Any]) -> float:
        """The share of the cost that is left."""
        return self._cost(counts) / self._whole

    def slopes(self, counts: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """By how much the share grows with each group's count, per index."""
        out = np.zeros(len(counts))
        for group, size in enumerate(self._sizes):
            low = max(counts[group] - STRIDE * size, min(1.0, counts[group]))
            high = min(counts[group] + STRIDE * size, size)
            rise = self._cost.change(counts, group, high) - self._cost.change(counts, group, low)
            out[group] = rise / max(high - low, 1e-12) / self._whole
        return out


class _Sloped(torch.autograd.Function):
    """A cost that is only evaluated, with slopes for gradients."""

    @staticmethod
    def forward(ctx: Any, counts: torch.Tensor, spent: Spent) -> torch.Tensor:
        ctx.spent = spent
        ctx.save_for_backward(counts)
        return counts.new_tensor(spent.share(counts.detach().cpu().numpy()))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (counts,) = ctx.saved_tensors
        slopes = ctx.spent.slopes(counts.detach().cpu().numpy())
        return gradients[0] * torch.as_tensor(slopes).to(counts), None
