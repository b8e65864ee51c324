"""free: the indices whose removal changes nothing, whatever the inputs; they go first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from graphprune.core.axes import Axis
from graphprune.core.groups import Counts, Dependencies
from graphprune.core.indices import Indices
from graphprune.importance.freedom import Free, Mask, Masks
from graphprune.importance.kernels import Scores

_BELOW = 1e-6  # of the mean score, by which free indices sort before others


def free(deps: Dependencies, axes: Collection[Axis] | None = None) -> dict[Axis, Mask]:
    """Which indices can go at no cost.

    Args:
        deps: The analysis.
        axes: The groups' axes to ask for; all of them where not given.

    Returns:
        For each axis that has free indices, which of them are.
    """
    return merged(step.found for step in rounds(Free(deps, axes)))


def rounds(first: Free) -> Iterator[Free]:
    """What is free, and what is free once that is gone, and so on until nothing more is found.

    Whatever fed nothing but free indices is free in the next round.

    Args:
        first: The first round: an analysis of which nothing has gone.
    """
    found, gone = first, dict[Axis, Mask]()
    while True:
        yield found
        more = merged((gone, found.found))
        if _number(more) == _number(gone):
            return
        gone = more
        found = Free(first.deps, first.axes, gone=gone)


def _number(masks: Masks) -> int:
    return sum(int(mask.sum()) for mask in masks.values())


def merged(found: Iterable[Masks]) -> dict[Axis, Mask]:
    """The indices that are in any of some masks."""
    out: dict[Axis, Mask] = {}
    for masks in found:
        for axis, mask in masks.items():
            out[axis] = out[axis] | mask if axis in out else mask
    return out


def missed(found: Masks, keep: Mapping[Axis, Indices]) -> set[Axis]:
    """The axes that lose an index which cannot go at no cost.

    Args:
        found: The free indices.
        keep: The indices that stay, for each axis that loses some.
    """
    return {
        axis
        for axis, stays in keep.items()
        if axis not in found or not np.delete(found[axis], stays).all()
    }


def costless(deps: Dependencies, found: Masks) -> Counts:
    """How many indices of each group can go at no cost, some being left.

    Args:
        deps: The analysis.
        found: The free indices.
    """
    numbers = [int(found[g.axis].sum()) if g.axis in found else 0 for g in deps.groups]
    whole = [
        min(number // group.grain * group.grain, group.size - group.grain)
        for number, group in zip(numbers, deps.groups, strict=True)
    ]
    return np.array(whole, dtype=np.float64)


def foremost(deps: Dependencies, scores: Sequence[Scores], found: Masks) -> list[Scores]:
    """Scores by which free indices go before all others, whichever criterion gave them.

    Args:
        deps: The analysis.
        scores: Those of the criterion.
        found: The free indices.
    """
    if not found:
        return list(scores)
    masks = [found.get(group.axis) for group in deps.groups]
    pairs = list(zip(scores, masks, strict=True))
    others = np.concatenate([s if mask is None else s[~mask] for s, mask in pairs])
    least = float(others.min()) if len(others) else 1.0
    below = 0.0 if least > 0 else least - _BELOW * max(float(np.abs(others).mean()), 1e-30)
    return [s if mask is None else np.where(mask, below, s) for s, mask in pairs]
