"""How gates are drawn: numbers between 0 and 1, one for each index, with gradients."""

from __future__ import annotations

import torch
from torch import nn

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
"""Temperature and stretch of the hard concrete distribution (Louizos et al., 2018, section 4)."""

OPEN = 2.5
"""log a of a fresh gate. A hard concrete one is open with a chance of sigmoid(2.5 + 1.6) = 0.98 and
is 1 in eval mode, so that a trained network starts with its outputs as they were."""


class Gate(nn.Module):
    """The gates of one group.

    Attributes:
        log_alpha: One number for each index; the larger, the more open.
        noise: Uniform numbers in (0, 1), drawn once for each forward pass; all weights of the
            group see the same.
    """

    log_alpha: nn.Parameter
    noise: torch.Tensor

    def __init__(self, size: int, like: torch.Tensor) -> None:
        super().__init__()
        fresh = torch.full((size,), OPEN, device=like.device, dtype=torch.float32)
        self.log_alpha = nn.Parameter(fresh)
        self.register_buffer("noise", torch.full_like(fresh, 0.5), persistent=False)

    def draw(self) -> None:
        """Draw for another forward pass."""
        # Not in place: the pass before may still wait for its backward.
        self.noise = torch.rand_like(self.noise).clamp(1e-6, 1 - 1e-6)

    def chance(self) -> torch.Tensor:
        """The chance that each gate is open."""
        return torch.sigmoid(self.log_alpha)

    def sample(self) -> torch.Tensor:
        """Z in training."""
        raise NotImplementedError

    def fixed(self) -> torch.Tensor:
        """Z in eval mode."""
        raise NotImplementedError

    def forward(self) -> torch.Tensor:
        """z, one number for each index."""
        return self.sample() if self.training else self.fixed()


class _HardConcrete(Gate):
    """z = min(1, max(0, s·(zeta - gamma) + gamma)), s = sigmoid((log u - log(1 - u) + log a)/β)."""

    def chance(self) -> torch.Tensor:
        return torch.sigmoid(self.log_alpha - BETA * _log(-GAMMA / ZETA))

    def sample(self) -> torch.Tensor:
        u = self.noise
        s = torch.sigmoid((u.log() - (1 - u).log() + self.log_alpha) / BETA)
        return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def fixed(self) -> torch.Tensor:
        return (torch.sigmoid(self.log_alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


class _Bernoulli(Gate):
    """z is 1 with chance sigmoid(log a), else 0; the gradient is that of the chance."""

    def sample(self) -> torch.Tensor:
        chance = self.chance()
        drawn = (self.noise < chance).to(chance)
        return drawn + chance - chance.detach()  # straight through: Bengio et al., 2013

    def fixed(self) -> torch.Tensor:
        chance = self.chance()
        return (chance > 0.5).to(chance)


class _Gaussian(Gate):
    """z = p + √(p·(1 - p))·ε: a normal variable with a Bernoulli's mean and variance.

    Multiplicative Gaussian noise in the place of the Bernoulli's (Wang & Manning, Fast Dropout,
    2013), reparameterised.
    """

    def sample(self) -> torch.Tensor:
        chance = self.chance()
        normal: torch.Tensor = torch.special.ndtri(self.noise)
        spread = (chance * (1 - chance)).clamp(min=1e-8).sqrt()
        return chance + spread * normal

    def fixed(self) -> torch.Tensor:
        return self.chance()


KINDS: dict[str, type[Gate]] = {
    "hard_concrete": _HardConcrete,
    "bernoulli": _Bernoulli,
    "gaussian": _Gaussian,
}
"""How gates are drawn."""


def _log(x: float) -> float:
    return float(torch.tensor(x, dtype=torch.float64).log())
