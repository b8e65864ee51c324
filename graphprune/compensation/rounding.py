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
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

_BLOCK = 128  # columns after which the others are brought up to date together; GPTQ's own


@dataclass(frozen=True)
class Steps:
    """The numbers that stored integers can stand for: `(q - zero) * scale`.

    Attributes:
        scale: Of each number, `groups x outputs x channels x taps`.
        zero: Which integer stands for zero, likewise.
        least: The least integer.
        most: The largest.
    """

    scale: torch.Tensor
    zero: torch.Tensor
    least: int
    most: int

    def of(self, kept: torch.Tensor, like: torch.Tensor) -> Steps:
        """Those of some channels, as `groups x (outputs taps) x kept`, where a solution lies."""
        scale, zero = (
            x[:, :, kept].transpose(2, 3).flatten(1, 2).to(like) for x in (self.scale, self.zero)
        )
        return Steps(scale, zero, self.least, self.most)

    def nearest(self, numbers: torch.Tensor, column: int) -> torch.Tensor:
        """The nearest such numbers of one column, `groups x rows`."""
        scale, zero = self.scale[:, :, column], self.zero[:, :, column]
        return (integers(numbers, scale, zero, (self.least, self.most)) - zero) * scale


def integers(
    numbers: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, ends: tuple[int, int]
) -> torch.Tensor:
    """The nearest integers between two ends, in the type of the numbers."""
    return ((numbers / scale).nan_to_num(0.0) + zero).round().clamp(*ends)  # a step may be zero


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
