"""synthesize: inputs by gradient descent, from what the weights remember of the training data.

1. `match_norms`: inputs whose mean μ and standard deviation s at every batch norm are the stored
   ones (Yin et al., Dreaming to Distill, CVPR 2020). The loss, summed over batch norms, is

       mean over channels of ((μ - μ_bn)² + (s - s_bn)²) / s_bn²

   The descent ends on the loss, not on a number of steps: what remains of it costs accuracy.
2. `invert_classes`: inputs that a classifier assigns to random classes, by cross-entropy. Few
   steps: a long descent makes all inputs of a class alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from graphprune.core.graph import Op
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Chunk
from graphprune.engine.trial import Instead, Trial
from graphprune.rules.scalings import epsilon, is_batch_norm
from graphprune.statistics.constants import INVERSION_RATE, MATCHED, PICTURES_RATE
from graphprune.statistics.made.descend import Advance, Descent, few_steps, to_minimum
from graphprune.statistics.made.normalise import normalised


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
    how: Descent,
    advance: Advance = lambda _: None,
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
    found: list[torch.Tensor] = []

    def observed(op: Op) -> Instead:
        def run(operands: Sequence[torch.Tensor | None]) -> torch.Tensor:
            out, off = normalised(operands, epsilon(op))
            found.append(off)
            return out

        return run

    trial = Trial(deps, batch, instead={op: observed(op) for op in norms(deps)})

    def loss(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        found.clear()
        trial.run(inputs)
        return torch.stack(found).sum()

    if how.from_pictures:
        return few_steps(loss, like[0], batch, how, PICTURES_RATE, MATCHED, advance)
    return to_minimum(loss, like[0], batch, how, MATCHED, advance)


def invert_classes(
    deps: Dependencies,
    like: Sequence[torch.Tensor],
    batch: int,
    how: Descent,
    advance: Advance = lambda _: None,
) -> tuple[Chunk, float]:
    """Inputs that a classifier assigns to random classes.

    Arguments and result as for `match_norms`; the loss is the cross-entropy.
    """
    trial = Trial(deps, batch)
    classes = deps.source.outputs[0].shape[-1]
    generator = torch.Generator().manual_seed(how.seed)
    labels = torch.randint(classes, (batch,), generator=generator)

    def loss(inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        logits, *_ = trial.run(inputs)
        return F.cross_entropy(logits, labels.to(logits.device))

    return few_steps(loss, like[0], batch, how, INVERSION_RATE, 0.0, advance)
