"""score: how much each index of each coupled group matters.

The score of an index is the sum of the criterion over every parameter slice that it owns, in
all members of its group.
"""

from __future__ import annotations

import numpy as np
import torch

from graphprune.axes import atoms
from graphprune.dependencies import Dependencies
from graphprune.errors import GraphPruneError
from graphprune.graph import Value
from graphprune.importance import CRITERIA, Criterion, Scores
from graphprune.indices import holdings


def score(deps: Dependencies, importance: str | Criterion = "l2", seed: int = 0) -> list[Scores]:
    """Score every group.

    Args:
        deps: The analysis.
        importance: Name of a criterion (`"l1"`, `"l2"`, `"random"`), or a function that scores
            the slices of one weight along one dimension.
        seed: For `"random"`.

    Returns:
        For each group one score for each index; the lowest go first.

    Raises:
        GraphPruneError: No criterion has this name.
    """
    if importance == "random":
        generator = np.random.default_rng(seed)
        return [generator.random(group.size) for group in deps.groups]
    if isinstance(importance, str):
        if importance not in CRITERIA:
            names = ", ".join([*CRITERIA, "random"])
            raise GraphPruneError(f"no importance criterion {importance!r}: choose from {names}")
        importance = CRITERIA[importance]
    totals = {group.axis: np.zeros(group.size) for group in deps.groups}
    for weight in deps.source.parameters():
        tensor = weight.tensor
        for number, dim in enumerate(deps.dims[weight]):
            if not any(axis in totals for axis in atoms(dim)):
                continue
            found = _checked(weight, number, importance(tensor, number))
            for axis, positions, indices in holdings(dim):
                if axis in totals:
                    totals[axis] += np.bincount(indices, found[positions], axis.size)
    return list(totals.values())


def _checked(weight: Value, dim: int, found: Scores | torch.Tensor) -> Scores:
    scores = np.asarray(found, dtype=np.float64)
    wanted = (weight.shape[dim],)
    if scores.shape != wanted or not np.isfinite(scores).all():
        raise GraphPruneError(
            f"the importance criterion must give {wanted[0]} finite scores for "
            f"{weight.name}[{dim}], one for each index; it gave shape {scores.shape}"
        )
    return scores
