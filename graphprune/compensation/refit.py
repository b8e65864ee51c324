"""refit: weights of one linear operation that make most of the channels that stay."""

from __future__ import annotations

import torch

from graphprune.statistics.moments import Moments

_DAMPING = 1e-3  # of the mean variance of the channels that stay, at least
_USUAL = 0.1  # of what goes is commonly left unexplained


def refit(
    weight: torch.Tensor, moments: Moments, kept: torch.Tensor, shifts: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights that make most of the channels that stay, in least squares.

    A ridge draws them to the plain removal of channels, the more so the fewer the rows and the less
    they explain of the channels that go (Hoerl, Kennard & Baldwin, 1975).

    Args:
        weight: Of the original, `groups x outputs x channels x taps`.
        moments: Of the original's channels (targets) and of those that stay (inputs).
        kept: Which of the original's channels those are.
        shifts: Whether a constant may be added.

    Returns:
        W B, `groups x outputs x kept x taps`, and what is added to the outputs,
        `groups x outputs`.
    """
    cross, own = (m.to(weight.dtype) for m in moments.second(central=shifts))
    share = _share(moments, cross, own, kept, shifts)
    rest = cross.clone()
    rest[:, kept] -= own
    weight = weight.to(own.device)
    flat = weight.transpose(2, 3).flatten(1, 2)
    if flat.shape[1] < flat.shape[2]:  # the fewer systems are solved
        changes = _solved(own, flat @ rest, share)
    else:
        changes = flat @ _solved(own, rest, share)
    groups, outputs, _, taps = weight.shape
    new = (flat[:, :, kept] + changes).reshape(groups, outputs, taps, -1).transpose(2, 3)
    if not shifts:
        return new, new.new_zeros(new.shape[:2])
    targets, inputs = (m.to(new.dtype) for m in moments.means())
    wanted, found = weight.sum(3) @ targets[..., None], new.sum(3) @ inputs[..., None]
    return new, (wanted - found)[..., 0]


def _share(
    moments: Moments, cross: torch.Tensor, own: torch.Tensor, kept: torch.Tensor, shifts: bool
) -> torch.Tensor:
    """The ridge of each group, as a share of the mean variance of the channels that stay."""
    least = torch.full_like(own[:, 0, 0], _DAMPING)
    share = moments.scarcity().clamp_max(1.0).to(own.dtype)
    if not bool((share > _DAMPING).any()):
        return least
    gone = torch.ones(cross.shape[1], dtype=torch.bool).index_fill(0, kept, False).to(own.device)
    power = moments.power(central=shifts)[:, gone].sum(1).to(own.dtype)
    explained = _explained(own, cross[:, gone], least)
    left = (1 - explained / power.clamp_min(1e-30)).clamp_min(0.0)
    return (share * (left / _USUAL).clamp_max(1.0)).clamp_min(_DAMPING)


def _factored(own: torch.Tensor, share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Second moments, a share of their mean added to the variances, and their Cholesky factor.

    There is none where rounding has left them indefinite.
    """
    damped = own.clone()
    ridge = share * own.diagonal(dim1=1, dim2=2).mean(1) + 1e-12
    damped.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    factor, failed = torch.linalg.cholesky_ex(damped)
    return damped, None if failed.any() else factor


def _explained(own: torch.Tensor, cross: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """How much of the targets' power follows from the inputs, for each group."""
    damped, factor = _factored(own, share)
    right = cross.transpose(1, 2)
    if factor is None:
        found: torch.Tensor = torch.linalg.solve(damped, right) * right
    else:
        found = torch.linalg.solve_triangular(factor, right, upper=False).square()
    return found.sum((1, 2))


def _solved(own: torch.Tensor, cross: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """`cross` times the inverse of the damped second moments."""
    damped, factor = _factored(own, share)
    right = cross.transpose(1, 2)
    if factor is None:
        found: torch.Tensor = torch.linalg.solve(damped, right)
    else:
        found = torch.cholesky_solve(right, factor)
    return found.transpose(1, 2)
