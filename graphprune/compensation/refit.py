"""refit: the ridge regression that gives one linear operation its new weights."""

from __future__ import annotations

import torch

from graphprune.compensation.constants import DAMPING, RIDGE_FLOOR, UNEXPLAINED
from graphprune.compensation.rounding import Steps, rounded
from graphprune.statistics.constants import TINY
from graphprune.statistics.moments import Moments


def refit(
    weight: torch.Tensor,
    moments: Moments,
    kept: torch.Tensor,
    shifts: bool,
    steps: Steps | None = None,
    reach: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """New weights for the channels that stay.

    Of all V, with x what the original reads, z the channels that stay in the smaller network, and
    Wₖ the columns of W for the channels that stay,

        V = argmin  E|W x - V z - c|² + λ |V - Wₖ|²
          = Wₖ + W (Cov(x, z) - Iₖ Cov(z)) (Cov(z) + λ I)⁻¹,      c = W E[x] - V E[z],

    where Iₖ places a channel that stays among all channels. λ → ∞ gives the plain removal. Without
    constant (c = 0), second moments take the place of covariances. Taps that meet padding count in
    c as often as they meet inputs.

    Example:
        Of two equal channels x₁ = x₂ the second is removed. Then V → w₁ + w₂ for λ → 0.

    Args:
        weight: W of the original, `groups x outputs x channels x taps`.
        moments: Of x (targets) and z (inputs).
        kept: Numbers of the channels that stay.
        shifts: Whether a constant c may be added to the outputs.
        steps: What integers stand for, in the shape of W, where V is stored as such.
        reach: The share of positions at which each of W's numbers meets an input; None: at all.

    Returns:
        V, `groups x outputs x kept x taps`; c, `groups x outputs`; and the steps of V's integers.
    """
    cross, own = (m.to(weight.dtype) for m in moments.second(central=shifts))
    share = _share(moments, cross, own, kept, shifts)
    rest = cross.clone()
    rest[:, kept] -= own
    weight = weight.to(own.device)
    flat = weight.transpose(2, 3).flatten(1, 2)
    if flat.shape[1] < flat.shape[2]:  # one system for each output, else one for each channel
        changes = _solved(own, flat @ rest, share)
    else:
        changes = flat @ _solved(own, rest, share)
    groups, outputs, _, taps = weight.shape
    solution = flat[:, :, kept] + changes
    scales = None
    if steps is not None:
        _, factor = _factored(own, share)
        ours = steps.of(kept, solution).fitted(solution)
        scales = ours.scales
        solution = solution if factor is None else rounded(solution, factor, ours)
    new = solution.reshape(groups, outputs, taps, -1).transpose(2, 3)
    if not shifts:
        return new, new.new_zeros(new.shape[:2]), scales
    targets, inputs = (m.to(new.dtype) for m in moments.means())
    met = torch.ones_like(weight) if reach is None else reach.to(weight)
    wanted = (weight * met).sum(3) @ targets[..., None]
    found = (new * met[:, :, kept]).sum(3) @ inputs[..., None]
    return new, (wanted - found)[..., 0], scales


def _share(
    moments: Moments, cross: torch.Tensor, own: torch.Tensor, kept: torch.Tensor, shifts: bool
) -> torch.Tensor:
    """The ridge λ of each group, as a share of the mean variance of the channels that stay.

    It grows with the noise, as in Hoerl, Kennard & Baldwin (1975): the scarcity of rows, times how
    much of the removed channels' variance the regression leaves unexplained, up to `UNEXPLAINED`.
    Where the removed channels follow exactly from those that stay, even few rows show it.
    """
    least = torch.full_like(own[:, 0, 0].real, DAMPING)
    share = moments.scarcity().clamp_max(1.0).to(least)
    if not bool((share > DAMPING).any()):
        return least
    gone = torch.ones(cross.shape[1], dtype=torch.bool).index_fill(0, kept, False).to(own.device)
    power = moments.power(central=shifts)[:, gone].sum(1).to(least)
    explained = _explained(own, cross[:, gone], least)
    left = (1 - explained / power.clamp_min(TINY)).clamp_min(0.0)
    return (share * (left / UNEXPLAINED).clamp_max(1.0)).clamp_min(DAMPING)


def _factored(own: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Cov(z) + λ I, and its Cholesky factor; None where rounding has made it indefinite.

    Args:
        own: Cov(z), `groups x kept x kept`.
        share: λ of each group, as a share of the mean variance.
    """
    damped = own.clone()
    ridge = share * own.diagonal(dim1=1, dim2=2).mean(1) + RIDGE_FLOOR
    damped.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    factor, failed = torch.linalg.cholesky_ex(damped)
    return damped, None if failed.any() else factor


def _explained(own: torch.Tensor, cross: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The variance of targets that the regression explains: tr(Cᴴ (Cov(z) + λ I)⁻¹ C), by group."""
    damped, factor = _factored(own, share)
    right = cross.mH
    if factor is None:
        found: torch.Tensor = (torch.linalg.solve(damped, right) * right.conj()).real
    else:
        found = torch.linalg.solve_triangular(factor, right, upper=False).abs().square()
    return found.sum((1, 2))


def _solved(own: torch.Tensor, cross: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """C (Cov(z) + λ I)⁻¹ for C = `cross`, `groups x rows x kept`."""
    damped, factor = _factored(own, share)
    right = cross.mH
    if factor is None:
        found: torch.Tensor = torch.linalg.solve(damped, right)
    else:
        found = torch.cholesky_solve(right, factor)
    return found.mH
