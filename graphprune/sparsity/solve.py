"""solve: which numbers of a layer become zero, and what the others become to make up for them.

With H = E[x xᵀ] of what a layer reads, `tr((Ŵ - W) H (Ŵ - W)ᵀ)` is the squared error of its
results.

1. `alternated`: the least of the whole matrix go, more of them each time, in turns with a solve
   that lets all numbers move towards those that are left (the alternating direction method of
   multipliers: Boža, Fast and Effective Weight Update for Pruned Large Language Models, 2024). A
   sweep over the columns that spreads what goes over those that follow (Frantar & Alistarh,
   SparseGPT, ICML 2023) chooses a block of columns at a time, and never looks back: on correlated
   inputs it leaves about twice the error.
2. `settled`: for given zeros the others by conjugate gradients on all rows at once, to the least
   squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphprune.sparsity.patterns import Pattern

ROUNDS, _GROWING = 30, 20  # of the alternation; those in which more and more goes
SETTLING = 40  # of conjugate gradients
_ENOUGH = 1e-5  # of the residual that was there at first
_TINY = 1e-30


@dataclass
class Problem:
    """What a layer should compute, and from what.

    Attributes:
        wanted: The weights that would be best if all stayed, `groups x outputs x columns`.
        own: Second moments of what is read, damped, `groups x columns x columns`.
        counts: What the squared error of each output counts, `groups x outputs`.
    """

    wanted: torch.Tensor
    own: torch.Tensor
    counts: torch.Tensor

    def error(self, found: torch.Tensor) -> float:
        """The squared error of weights, each output's as it counts."""
        off = found - self.wanted
        each = ((off @ self.own) * off).sum(2)
        return float((each * self.counts).sum().double())

    def inverse(self) -> torch.Tensor:
        """H⁻¹."""
        factor, failed = torch.linalg.cholesky_ex(self.own)
        if failed.any():  # no second moments, but for rounding
            found: torch.Tensor = torch.linalg.pinv(self.own, hermitian=True)
            return found
        return torch.cholesky_inverse(factor)

    def saliencies(self) -> torch.Tensor:
        """What each number costs that goes alone, the others making up: `w² / [H⁻¹]`."""
        spread = self.inverse().diagonal(dim1=1, dim2=2).clamp_min(_TINY)
        return self.wanted.square() / spread[:, None] * self.counts[..., None]

    def activated(self) -> torch.Tensor:
        """What each number costs that goes alone, the others as they are: `w² E[x²]`."""
        power = self.own.diagonal(dim1=1, dim2=2)
        return self.wanted.square() * power[:, None] * self.counts[..., None]


def flat(tensor: torch.Tensor) -> torch.Tensor:
    """`groups x outputs x columns` as one matrix."""
    return tensor.flatten(0, 1)


def alternated(problem: Problem, pattern: Pattern, gone: int) -> tuple[torch.Tensor, torch.Tensor]:
    """More and more go, in turns with solves: weights, and which stay (as one matrix)."""
    shape = problem.wanted.shape
    scale = problem.own.diagonal(dim1=1, dim2=2).clamp_min(_TINY).sqrt()
    own = problem.own / scale[:, :, None] / scale[:, None]
    wanted = problem.wanted * scale[:, None]
    target = wanted @ own
    raised = own.clone()
    raised.diagonal(dim1=1, dim2=2).add_(1.0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(raised))
    moved, dual = wanted, torch.zeros_like(wanted)
    counts = problem.counts[..., None]
    kept = torch.ones_like(wanted, dtype=torch.bool)
    for round_ in range(ROUNDS):
        if round_ < _GROWING:
            share = 1 - (1 - (round_ + 1) / _GROWING) ** 3
            now = gone if round_ == _GROWING - 1 else int(gone * share)
            kept = pattern.choose(flat((moved + dual).square() * counts), now).view(shape)
        sparse = (moved + dual) * kept
        dual = dual + moved - sparse
        moved = (target + sparse - dual) @ inverse
    return (moved + dual) * kept / scale[:, None], flat(kept)


def settled(
    problem: Problem, start: torch.Tensor, kept: torch.Tensor, steps: int = SETTLING
) -> torch.Tensor:
    """The best weights of those that stay, by conjugate gradients on every row at once.

    Args:
        problem: The layer.
        start: Weights to begin with, `groups x outputs x columns`.
        kept: Which of them stay, as one matrix.
        steps: The most steps.
    """
    mask = kept.view(start.shape).to(start.dtype)
    scale = problem.own.diagonal(dim1=1, dim2=2).clamp_min(_TINY)[:, None]
    found = start * mask
    left = (problem.wanted - found) @ problem.own * mask
    step = left / scale
    power = (left * step).sum(2, keepdim=True)
    first = float(power.sum())
    for _ in range(steps):
        if float(power.sum()) <= _ENOUGH**2 * first or first == 0:
            break
        across = step @ problem.own * mask
        length = power / (step * across).sum(2, keepdim=True).clamp_min(_TINY)
        found = found + length * step
        left = left - length * across
        scaled = left / scale
        new = (left * scaled).sum(2, keepdim=True)
        step = scaled + new / power.clamp_min(_TINY) * step
        power = new
    return found
