"""rounding: a solution goes to stored integers column by column, the others making up for it.

Rounding all numbers of a solution V to the nearest integers leaves an error E, and E|E z|² may be
large where what is read, z, is correlated. GPTQ (Frantar et al., ICLR 2023) rounds the columns of V
one after another, and lets those to come take up what each loses: with H = Cov(z) + λ I and U the
upper Cholesky factor of H⁻¹, after column j,

    V[:, k] -= (V[:, j] - rounded) U[j, k] / U[j, j]      for all k > j.

What lies beyond the last integer loses more, and is made up for alike.

Example:
    z₁ = z₂ and V = (0.4, 0.4), stored as whole numbers: the first becomes 0, which leaves 0.8 to
    the second, and it becomes 1. The nearest whole numbers are 0 and 0.

A solution may lie beyond the last integer, since it makes up for what goes. Where the step is the
weight's own, it becomes so large that the last integer reaches (`Steps.fitted`); else what lies
beyond is lost, and made up for alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

_BLOCK = 128  # columns after which the others are brought up to date together; GPTQ's own


@dataclass(frozen=True)
class Steps:
    """The numbers that stored integers can stand for: a whole number times a step.

    Attributes:
        scales: The steps, one after another.
        which: Which of them belongs to each number, `groups x outputs x channels x taps`.
        least: The least whole number, likewise.
        most: The largest, likewise.
        stays: Which numbers are stored, likewise: those of outputs that stay.
        own: Whether the steps may change.
    """

    scales: torch.Tensor
    which: torch.Tensor
    least: torch.Tensor
    most: torch.Tensor
    stays: torch.Tensor
    own: bool = False

    def of(self, kept: torch.Tensor, like: torch.Tensor) -> Steps:
        """Those of some channels, as `groups x (outputs taps) x kept`, where a solution lies."""
        which, least, most, stays = (
            x[:, :, kept].transpose(2, 3).flatten(1, 2).to(like.device)
            for x in (self.which, self.least, self.most, self.stays)
        )
        return Steps(self.scales.to(like), which, least.to(like), most.to(like), stays, self.own)

    def fitted(self, solution: torch.Tensor) -> Steps:
        """With steps by which the last whole numbers reach the largest of a solution.

        Example:
            Of whole numbers from -2 to 2, the step of (0.1, -0.6, 0.4) is 0.3.
        """
        if not self.own:
            return self
        ends = torch.where(solution < 0, self.least, self.most)
        wanted = torch.where(self.stays & (ends != 0), solution / ends, 0.0)
        found = torch.zeros_like(self.scales)
        found.scatter_reduce_(0, self.which.flatten(), wanted.flatten(), "amax")
        return replace(self, scales=torch.where(found > 0, found, self.scales))

    def nearest(self, numbers: torch.Tensor, column: int) -> torch.Tensor:
        """The nearest such numbers of one column, `groups x rows`."""
        scale = self.scales[self.which[:, :, column]]
        ends = self.least[:, :, column], self.most[:, :, column]
        return wholes(numbers, scale).clamp(*ends) * scale


def wholes(numbers: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The nearest whole numbers of steps, in the type of the numbers."""
    return (numbers / scale).nan_to_num(0.0).round()  # a step may be zero


def rounded(solution: torch.Tensor, factor: torch.Tensor, steps: Steps) -> torch.Tensor:
    """Numbers that integers stand for, near a solution.

    Args:
        solution: V, `groups x rows x columns`.
        factor: The lower Cholesky factor of H, `groups x columns x columns`.
        steps: What the integers stand for, in the shape of V.

    Returns:
        The numbers, in the shape of V; all to the nearest where H⁻¹ has no factor.
    """
    upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(factor), upper=True)
    columns = solution.shape[2]
    if bool(failed.any()):
        plain = [steps.nearest(solution[:, :, at], at) for at in range(columns)]
        return torch.stack(plain, 2)
    out = solution.clone()
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        lost = torch.zeros_like(out[:, :, start:stop])
        for at in range(start, stop):
            near = steps.nearest(out[:, :, at], at)
            error = (out[:, :, at] - near) / upper[:, None, at, at]
            out[:, :, at] = near
            out[:, :, at + 1 : stop] -= error[:, :, None] * upper[:, None, at, at + 1 : stop]
            lost[:, :, at - start] = error
        out[:, :, stop:] -= lost @ upper[:, start:stop, stop:]
    return out
