"""synthesize: inputs by gradient descent, from what the weights remember of the training data.

1. `match_norms`: inputs whose mean μ and standard deviation s at every batch norm are the stored
   ones (Yin et al., Dreaming to Distill, CVPR 2020). The loss, summed over batch norms, is

       mean over channels of ((μ - μ_bn)² + (s - s_bn)²) / s_bn²

   The descent ends on the loss, not on a number of steps: what remains of it costs accuracy.
2. `invert_classes`: inputs that a classifier assigns to random classes, by cross-entropy. Few
   steps: a long descent makes all inputs of a class alike.

Both add the total variation, as images are smoother than noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from graphprune.core.allowance import Allowance
from graphprune.core.graph import Op
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Chunk
from graphprune.engine.trial import Trial
from graphprune.rules.scalings import epsilon, is_batch_norm
from graphprune.statistics.constants import (
    MATCHED,
    MATCHED_NEARLY,
    PATIENCE,
    PROGRESS,
    SMOOTHNESS,
    STEPS,
    SYNTHESIS_BETAS,
    SYNTHESIS_RATE,
)
from graphprune.statistics.made.paint import painted


@dataclass(frozen=True)
class Matching:
    """How a synthesis starts and when it ends.

    Attributes:
        steps: Most steps.
        seed: For the inputs it starts from.
        from_pictures: Whether it starts from painted pictures; from noise otherwise, which takes
            more steps.
        seconds: Wall time it may take. The learning rate falls with the time spent, too.
    """

    steps: int = STEPS
    seed: int = 0
    from_pictures: bool = False
    seconds: float = math.inf


def norms(deps: Dependencies) -> list[Op]:
    """The batch norms; none where all of them hold the statistics they were initialised with."""
    found = [op for op in deps.source.ops if is_batch_norm(op)]
    return found if any(_trained(op) for op in found) else []


def _trained(op: Op) -> bool:
    mean, variance = (v.tensor for v in op.inputs[3:5] if v is not None)
    return bool((mean != 0).any()) or bool((variance != 1).any())


def match_norms(
    deps: Dependencies,
    like: Sequence[torch.Tensor],
    batch: int,
    how: Matching,
    advance: Callable[[float], None] = lambda _: None,
) -> tuple[Chunk, float]:
    """Inputs whose statistics at every batch norm are the stored ones.

    Args:
        deps: The analysis.
        like: The example input, `batch x channels x ...`, by itself in a sequence.
        batch: Number of inputs.
        how: Start and end of the descent.
        advance: Called with the share of the work that is done.

    Returns:
        The inputs, and the loss that remains.
    """
    watched = set(norms(deps))
    trial = Trial(deps, batch)
    loss: list[torch.Tensor] = []

    def watch(op: Op, operands: list[torch.Tensor | None]) -> None:
        if op in watched:
            x, mean, variance = operands[0], operands[3], operands[4]
            assert x is not None and mean is not None and variance is not None
            loss.append(_mismatch(x, mean, variance, epsilon(op)))

    def step(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        loss.clear()
        trial.run(inputs, watch)
        return torch.stack(loss).sum()

    return _descend(step, like[0], batch, how, MATCHED, advance)


def _mismatch(
    x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor, eps: float
) -> torch.Tensor:
    """The loss at one batch norm (see above); `x` is `batch x channels x ...`."""
    found, spread = _Spread.apply(x)
    scale = variance + eps
    off = (found - mean).square() / scale
    loss: torch.Tensor = (off + ((spread + eps).sqrt() - scale.sqrt()).square() / scale).mean()
    return loss


class _Spread(torch.autograd.Function):
    """Mean and variance of every channel, dimension 1: several times as fast as `Tensor.var`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = x.reshape(*x.shape[:2], -1)
        number = max(flat.shape[0] * flat.shape[2], 1)
        mean = flat.sum(2).sum(0) / number
        power = torch.linalg.vector_norm(flat, dim=2).square().sum(0) / number
        ctx.save_for_backward(x, mean)
        return mean, (power - mean.square()).clamp_min(0.0)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        x, mean = ctx.saved_tensors
        number = x.numel() / x.shape[1]
        slope = 2 * gradients[1] / number
        start = gradients[0] / number - slope * mean
        along = [-1] + [1] * (x.dim() - 2)
        found: torch.Tensor = torch.addcmul(start.view(along), x, slope.view(along))
        return found


def invert_classes(
    deps: Dependencies,
    like: Sequence[torch.Tensor],
    batch: int,
    how: Matching,
    advance: Callable[[float], None] = lambda _: None,
) -> tuple[Chunk, float]:
    """Inputs that a classifier assigns to random classes.

    Arguments and result as for `match_norms`; the loss is the cross-entropy.
    """
    trial = Trial(deps, batch)
    classes = deps.source.outputs[0].shape[-1]
    generator = torch.Generator().manual_seed(how.seed)
    labels = torch.randint(classes, (batch,), generator=generator)

    def step(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        logits, *_ = trial.run(inputs)
        return F.cross_entropy(logits, labels.to(logits.device))

    return _descend(step, like[0], batch, how, 0.0, advance)


def _descend(
    step: Callable[[Sequence[torch.Tensor]], torch.Tensor],
    like: torch.Tensor,
    batch: int,
    how: Matching,
    enough: float,
    advance: Callable[[float], None],
) -> tuple[Chunk, float]:
    """Adam on the inputs, at a learning rate that falls to zero as a cosine.

    Args:
        step: The loss of inputs.
        like: The example input.
        batch: Number of inputs.
        how: Start and end.
        enough: The loss at which the descent ends. It also ends near it where it is slow.
        advance: Called with the share of the work that is done.

    Returns:
        The inputs, and the loss that remains.
    """
    if how.from_pictures:
        x = painted(batch, like.shape[1:], how.seed).to(like)
    else:
        x = half_smooth(noise(like, batch, how.seed))
    x.requires_grad_()
    optimizer = torch.optim.Adam([x], SYNTHESIS_RATE, SYNTHESIS_BETAS)
    left, losses = math.inf, list[float]()
    allowed = Allowance(how.seconds)
    for done in range(how.steps):
        share = max(done / how.steps, allowed.spent)
        if share >= 1:
            break
        optimizer.param_groups[0]["lr"] = SYNTHESIS_RATE * (1 + math.cos(math.pi * share)) / 2
        with torch.enable_grad():
            loss = step([x * 1.0])
            (gradient,) = torch.autograd.grad(loss + SMOOTHNESS * _variation(x), x)
        left = float(loss.detach())
        losses.append(left)
        slow = len(losses) > PATIENCE and left > PROGRESS * losses[-PATIENCE]
        if left <= enough or (slow and left < MATCHED_NEARLY * enough):
            break
        x.grad = torch.nan_to_num(gradient)
        optimizer.step()
        advance((done + 1) / how.steps)
    return (x.detach(),), left


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
