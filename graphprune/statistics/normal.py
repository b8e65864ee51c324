"""Moments in closed form, of channels that are functions of jointly normal ones.

A pre-activation is close to normal: it is a sum of many terms. What follows it (a ReLU, a gain) is
a function of it, channel by channel. A `Flow` holds both: the normal channels, and each function as
a table of its values at the nodes of a Gauss-Hermite quadrature. Elementwise operations run on the
table; `moments_of` turns the result into means and covariances.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from graphprune.statistics.constants import HERMITE_ORDER, QUADRATURE_NODES, VARIANCE_FLOOR


@dataclass(frozen=True, eq=False)
class Normal:
    """Jointly normal channels.

    Attributes:
        mean: The mean of each, `channels`.
        covariance: `channels x channels`.
        age: Number of linear operations since the last norm, behind which means and variances are
            known exactly. Errors of the closed form grow with it.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    age: int = 0


@dataclass(frozen=True, eq=False)
class Flow:
    """The channels of a value, each a function of one normal channel.

    Attributes:
        base: The normal channels.
        table: Values of each function at the quadrature's nodes, `QUADRATURE_NODES x channels`.
        at: The dimension of the value that holds the channels; -1 where several dimensions do.
        numbers: Where several do, the channel's number at every place, of the value's shape.
    """

    base: Normal
    table: torch.Tensor
    at: int
    numbers: torch.Tensor | None = None


@cache
def _quadrature() -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes of the quadrature, and its weights times the Hermite polynomials.

    Returns:
        The nodes x, and for each k from 0 to `HERMITE_ORDER` a row w(x) Heₖ(x) / √k!, so that its
        product with a table f(x) is the coefficient fₖ = E[f(z) Heₖ(z)] / √k! for z ~ N(0, 1).
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
    x, share = torch.from_numpy(nodes), torch.from_numpy(weights / weights.sum())
    polynomials = [torch.ones_like(x), x]
    for k in range(2, HERMITE_ORDER + 1):
        polynomials.append(x * polynomials[-1] - (k - 1) * polynomials[-2])
    rows = [p * share / math.sqrt(math.factorial(k)) for k, p in enumerate(polynomials)]
    return x.float(), torch.stack(rows).float()


def flow_of(base: Normal, at: int) -> Flow:
    """The flow of normal channels themselves: each function is the identity.

    Args:
        base: The channels.
        at: The dimension of the value that holds them.
    """
    spread = base.covariance.diagonal().clamp_min(0.0).sqrt()
    return Flow(base, base.mean + _quadrature()[0].to(spread)[:, None] * spread, at)


def correlated(covariance: torch.Tensor) -> torch.Tensor:
    """Correlations from a covariance, `channels x channels`; zero for channels of no variance."""
    spread = covariance.diagonal().clamp_min(VARIANCE_FLOOR).sqrt()
    found = (covariance / spread[:, None] / spread).clamp(-1.0, 1.0)
    found.diagonal().fill_(1.0)
    return found


def moments_of(flow: Flow) -> Normal:
    """Means and covariance of the channels of a value.

    With fₖ and gₖ the coefficients of f and g in normalised Hermite polynomials, and x and y
    standard normal of correlation r (Mehler's formula; O'Donnell, Analysis of Boolean Functions,
    2014, ch. 11):

        Cov(f(x), g(y)) = Σ_{k ≥ 1} fₖ gₖ rᵏ

    The sum ends at `HERMITE_ORDER`; variances are taken from the table, and are exact.

    Example:
        For ReLU, f₁ = 1/2 and f₂ = 1/√(4π): two ReLUs of correlation r have the covariance
        r/4 + r²/(4π) + ….
    """
    weights = _quadrature()[1].to(flow.table)
    coefficients = weights @ flow.table
    rho = correlated(flow.base.covariance)
    # Horner's rule, from the highest power of r down.
    covariance = torch.zeros_like(rho)
    for row in coefficients[1:].flip(0):
        covariance.addr_(row, row).mul_(rho)
    mean = coefficients[0]
    power = weights[0] @ flow.table.square()
    covariance.diagonal().copy_((power - mean.square()).clamp_min(0.0))
    return Normal(mean, covariance, flow.base.age)
