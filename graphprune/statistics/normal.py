"""Channels that are functions of normal ones, and how they vary together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

NODES = 64
"""Of the quadrature: values at which a function of a normal channel is known."""
_ORDER = 4  # of the Hermite polynomials; what is beyond varies in each channel by itself
_SMALL = 1e-12


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal channels.

    Attributes:
        mean: Of each.
        covariance: `channels x channels`.
        age: Linear operations since their means and variances were known for certain.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    age: int = 0


@dataclass(frozen=True, eq=False)
class Flow:
    """Channels of a value, each a function of a normal one.

    Attributes:
        base: The normal ones.
        table: The function of each at the nodes of the quadrature, `NODES x channels`.
        at: The dimension of the value that holds the channels; -1 where several do.
        numbers: The number of the channel at every place of the value, where several do.
    """

    base: Normal
    table: torch.Tensor
    at: int
    numbers: torch.Tensor | None = None


@cache
def _quadrature() -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes, and weights times each normalised Hermite polynomial, `order x nodes`."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    x, share = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    polynomials = [torch.ones_like(x), x]
    for k in range(2, _ORDER + 1):
        polynomials.append(x * polynomials[-1] - (k - 1) * polynomials[-2])
    rows = [p * share / math.sqrt(math.factorial(k)) for k, p in enumerate(polynomials)]
    return x.float(), torch.stack(rows).float()


def flow_of(base: Normal, at: int) -> Flow:
    """Normal channels as they are."""
    spread = base.covariance.diagonal().clamp_min(0.0).sqrt()
    return Flow(base, base.mean + _quadrature()[0].to(spread)[:, None] * spread, at)


def correlated(covariance: torch.Tensor) -> torch.Tensor:
    """Correlations; channels that do not vary have none."""
    spread = covariance.diagonal().clamp_min(_SMALL).sqrt()
    found = (covariance / spread[:, None] / spread).clamp(-1.0, 1.0)
    found.diagonal().fill_(1.0)
    return found


def moments_of(flow: Flow) -> Normal:
    """Mean and covariance of the channels of a value.

    With the coefficients fₖ of f in normalised Hermite polynomials, the covariance of f(x) and
    g(y) for x and y of correlation r is Σ fₖ gₖ rᵏ over k ≥ 1 (Mehler's formula).
    """
    weights = _quadrature()[1].to(flow.table)
    coefficients = weights @ flow.table
    rho = correlated(flow.base.covariance)
    # By Horner's rule, from the highest power down.
    covariance = torch.zeros_like(rho)
    for row in coefficients[1:].flip(0):
        covariance.addr_(row, row).mul_(rho)
    mean = coefficients[0]
    power = weights[0] @ flow.table.square()
    covariance.diagonal().copy_((power - mean.square()).clamp_min(0.0))
    return Normal(mean, covariance, flow.base.age)
