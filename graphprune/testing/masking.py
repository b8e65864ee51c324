"""Removal equals masking, as a test of one's own rules, passes and models."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphprune.choice.select import Selection
from graphprune.core.axes import Axis
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Indices
from graphprune.core.program import Inputs
from graphprune.core.proof import Verification
from graphprune.frontends.opening import open_model
from graphprune.passes.couple import Couple
from graphprune.passes.lower import Lower
from graphprune.passes.verify import Verify
from graphprune.pipeline import Asked, Pipeline, Work


def check_masking(
    model: Any, example_inputs: Inputs | None = None, share: float = 0.5, seed: int = 0
) -> Verification:
    """Remove random indices of every coupled group at once, and prove the result.

    The smaller graph must compute what the original computes with the removed slices set to zero,
    and the smaller model what the smaller graph computes.

    Args:
        model: A module, an ONNX model, or whatever a frontend reads; not modified.
        example_inputs: Positional and keyword arguments, `((x,), {})`; found where not given.
        share: Share of every group that goes.
        seed: For the choice of indices and the perturbation of weights.

    Returns:
        What was proven: whether removal is exact, and the largest relative differences.

    Raises:
        VerifyError: Removal differs from masking; names the operation and the difference.

    Examples:
        >>> from torch import nn, ones
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> check_masking(net, ((ones(2, 4),), {})).exact
        True
    """
    opened = open_model(model, example_inputs)
    work = Work(opened.program, Asked(seed=seed))
    Pipeline([Couple]).decide(work)
    keep = random_keep(work.deps, share, seed)
    work.choice = work.chooser.take(Selection(keep, share, share, 1, "channels"))
    for step in (Lower(), Verify()):
        step.run(work)
    assert work.verification is not None
    return work.verification


def random_keep(deps: Dependencies, share: float, seed: int = 0) -> dict[Axis, Indices]:
    """Random sorted indices that stay, for each group that can lose some.

    Args:
        deps: The analysis.
        share: Share of every group that goes; at least one index stays.
        seed: For the draw.
    """
    generator = np.random.default_rng(seed)
    keep: dict[Axis, Indices] = {}
    for group in deps.groups:
        count = round(group.size * (1 - share) / group.grain) * group.grain
        count = max(count, group.grain)
        if count < group.size:
            kept = generator.choice(group.size, count, replace=False)
            keep[group.axis] = np.sort(kept).astype(np.int64)
    return keep
