"""descend: gradient descent on inputs.

1. `to_minimum`: L-BFGS (Nocedal, Updating Quasi-Newton Matrices with Limited Storage, 1980) with a
   line search under the strong Wolfe conditions. A loss over all inputs at once is smooth, so this
   takes half of Adam's runs. No step depends on the clock, except the last.
2. `few_steps`: Adam at a rate that falls to zero, where the minimum is not wanted or out of reach.

Both add the total variation, as images are smoother than noise.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from graphprune.core.allowance import Allowance
from graphprune.engine.run import Chunk
from graphprune.statistics.constants import (
    FIRST_MOVE,
    HISTORY,
    PATIENCE,
    PROGRESS,
    SMOOTHNESS,
    STEPS,
    SYNTHESIS_BETAS,
)
from graphprune.statistics.made.paint import painted

Loss: TypeAlias = "Callable[[Sequence[torch.Tensor]], torch.Tensor]"
"""The loss of inputs."""

Advance: TypeAlias = "Callable[[float], None]"
"""Called with the share of the work that is done."""


@dataclass(frozen=True)
class Descent:
    """How a descent starts and when it ends.

    Attributes:
        steps: Most runs forwards and backwards.
        seed: For the inputs it starts from.
        from_pictures: Whether it starts from painted pictures; from noise otherwise.
        seconds: Wall time it may take.
    """

    steps: int = STEPS
    seed: int = 0
    from_pictures: bool = False
    seconds: float = math.inf


class _EndError(Exception):
    """Ends a descent from within the loss that it asks for."""


def to_minimum(
    loss: Loss, like: torch.Tensor, batch: int, how: Descent, enough: float, advance: Advance
) -> tuple[Chunk, float]:
    """Descend until the loss is small enough, or no longer falls.

    Args:
        loss: The loss of inputs; the same each time.
        like: The example input.
        batch: Number of inputs.
        how: Start and end.
        enough: The loss at which the descent ends.
        advance: Called with the share of the work that is done.

    Returns:
        The inputs of the least loss, and that loss.
    """
    start = _start(like, batch, how)
    # The first step of L-BFGS moves all numbers by 1 together: here by `FIRST_MOVE` each.
    unit = FIRST_MOVE * max(start.numel(), 1)
    scaled = (start / unit).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [scaled],
        max_iter=how.steps,
        max_eval=how.steps,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )
    found, least = start, math.inf
    losses: list[float] = []
    allowed = Allowance(how.seconds)

    def asked() -> float:
        nonlocal found, least
        if len(losses) >= how.steps or allowed.spent >= 1:
            raise _EndError
        with torch.enable_grad():
            x = unit * scaled
            off = loss([x * 1.0])  # code may write to its input
            total = off + SMOOTHNESS * _variation(x)
            (gradient,) = torch.autograd.grad(total, scaled)
        left = float(off.detach())
        losses.append(left)
        if left < least:
            found, least = x.detach(), left
        slow = len(losses) > PATIENCE and least > PROGRESS * min(losses[:-PATIENCE])
        if left <= enough or slow:
            raise _EndError
        scaled.grad = torch.nan_to_num(gradient)
        advance(len(losses) / how.steps)
        return float(total.detach())

    descend: Callable[[Callable[[], float]], object] = optimizer.step
    with contextlib.suppress(_EndError):
        descend(asked)
    return (found,), least


def few_steps(
    loss: Loss,
    like: torch.Tensor,
    batch: int,
    how: Descent,
    rate: float,
    enough: float,
    advance: Advance,
) -> tuple[Chunk, float]:
    """Take a number of steps, at a learning rate that falls to zero as a cosine.

    Args:
        loss: The loss of inputs.
        like: The example input.
        batch: Number of inputs.
        how: Start and end.
        rate: The learning rate of the first step.
        enough: The loss at which the descent ends before.
        advance: Called with the share of the work that is done.

    Returns:
        The inputs, and the loss before the last step.
    """
    x = _start(like, batch, how).requires_grad_()
    optimizer = torch.optim.Adam([x], rate, SYNTHESIS_BETAS)
    left = math.inf
    allowed = Allowance(how.seconds)
    for done in range(how.steps):
        share = max(done / how.steps, allowed.spent)
        if share >= 1:
            break
        optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
        with torch.enable_grad():
            off = loss([x * 1.0])
            (gradient,) = torch.autograd.grad(off + SMOOTHNESS * _variation(x), x)
        left = float(off.detach())
        if left <= enough:
            break
        x.grad = torch.nan_to_num(gradient)
        optimizer.step()
        advance((done + 1) / how.steps)
    return (x.detach(),), left


def _start(like: torch.Tensor, batch: int, how: Descent) -> torch.Tensor:
    """The inputs that a descent starts from."""
    if how.from_pictures:
        return painted(batch, like.shape[1:], how.seed).to(like)
    return half_smooth(noise(like, batch, how.seed))


def _variation(x: torch.Tensor) -> torch.Tensor:
    """Total variation: the mean absolute difference of neighbours, summed over dimensions."""
    return sum((x.diff(dim=dim).abs().mean() for dim in range(2, x.dim())), x.new_zeros(()))


def noise(like: torch.Tensor, batch: int, seed: int) -> torch.Tensor:
    """Standard normal inputs, `batch` of an example's shape."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *like.shape[1:], generator=generator).to(like.device)


def half_smooth(x: torch.Tensor) -> torch.Tensor:
    """Smooth the second half of the inputs, keeping their variance.

    Each position becomes the sum of itself and its two neighbours over √3, dimension by dimension.
    """
    rest, smooth = x.tensor_split([len(x) // 2])
    for dim in range(2, x.dim()):
        smooth = (smooth.roll(1, dim) + smooth + smooth.roll(-1, dim)) / 3**0.5
    return torch.cat([rest, smooth])
