"""score: how much each index of each coupled group matters.

1. The criterion gives contributions: one for each parameter slice that an index owns, in all
   members of its group (or for each activation that is watched).
2. A reduction makes one score of them; the sum unless asked otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphprune.core.errors import GraphPruneError
from graphprune.core.groups import Dependencies, Group
from graphprune.importance import Context, Criterion, Scores, find
from graphprune.importance.context import checked
from graphprune.importance.reduce import reduced
from graphprune.importance.registry import called


def score(
    deps: Dependencies,
    importance: str | Criterion = "l2",
    context: Context | None = None,
    reduction: str = "sum",
) -> list[Scores]:
    """Score every group.

    Args:
        deps: The analysis.
        importance: Name of a criterion, or a function that scores the slices of one weight along
            one dimension.
        context: The module, data and loss, for the criteria that need them.
        reduction: How contributions become one score: `"sum"`, `"mean"`, `"max"` or `"first"`.

    Returns:
        For each group one score for each index; the lowest go first.

    Raises:
        GraphPruneError: No criterion has this name, or it lacks what it needs.
    """
    criterion = find(importance)
    context = context or Context(deps)
    context.name = name = called(importance)
    parts = criterion(context)
    if not isinstance(parts, Sequence) or len(parts) != len(deps.groups):
        given = len(parts) if isinstance(parts, Sequence) else type(parts).__name__
        raise GraphPruneError(
            f"importance criterion {name!r} must give a list of contributions for each of the "
            f"{len(deps.groups)} groups; it gave {given}"
        )
    out = []
    for group, held in zip(deps.groups, parts, strict=True):
        try:
            sized = [checked(group.name, group.size, part, name) for part in held]
            found = reduced(sized, group.size, reduction)
            out.append(checked(group.name, group.size, found, name))
        except GraphPruneError:
            _blame(group)
            raise
    return out


def _blame(group: Group) -> None:
    """Name the weight that spoils a group's scores, where one does.

    Raises:
        GraphPruneError: It holds NaN or infinity.
    """
    for member in group.members:
        held = member.weight.tensor
        if isinstance(held, torch.Tensor) and not bool(torch.isfinite(held).all()):
            raise GraphPruneError(
                f"{member.weight.name} holds NaN or infinite values: repair the weights first"
            )
