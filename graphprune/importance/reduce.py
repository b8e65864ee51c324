"""From the contributions of a group's members to one score for each index."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphprune.core.errors import GraphPruneError
from graphprune.importance.kernels import Scores

REDUCTIONS: dict[str, Callable[[list[Scores]], Scores]] = {
    "sum": lambda held: np.asarray(np.sum(held, axis=0)),
    "mean": lambda held: np.asarray(np.mean(held, axis=0)),
    "max": lambda held: np.asarray(np.max(held, axis=0)),
    "first": lambda held: np.asarray(held[0]),
}
"""How the contributions of a group's members become one score: over all slices an index owns, or
of the first member alone (the layer that makes the channels)."""


def _mean(scores: Scores) -> Scores:
    scale = float(np.abs(scores).mean())
    return scores / scale if scale > 0 else scores


def _lamp(scores: Scores) -> Scores:
    """Score over the sum of all scores that are not lower (Lee et al., LAMP, ICLR 2021)."""
    order = np.argsort(scores, kind="stable")
    ahead = np.cumsum(scores[order][::-1])[::-1]
    out = np.empty_like(scores)
    out[order] = scores[order] / np.where(ahead > 0, ahead, 1.0)
    return out


def _gaussian(scores: Scores) -> Scores:
    spread = float(scores.std())
    return np.asarray((scores - scores.mean()) / (spread or 1.0))


NORMALIZATIONS: dict[str, Callable[[Scores], Scores]] = {
    "none": lambda scores: scores,
    "mean": _mean,
    "lamp": _lamp,
    "gaussian": _gaussian,
}
"""What makes the scores of different groups comparable where they compete (`global`)."""


def reduced(held: list[Scores], size: int, reduction: str = "sum") -> Scores:
    """One score for each index of a group; zeros where nothing contributes."""
    if reduction not in REDUCTIONS:
        raise GraphPruneError(f"no reduction {reduction!r}: choose from {', '.join(REDUCTIONS)}")
    return np.asarray(REDUCTIONS[reduction](held)) if held else np.zeros(size)


def normalized(scores: Scores, normalize: str = "mean") -> Scores:
    """Scores that compare between groups; the order inside a group stays."""
    if normalize not in NORMALIZATIONS:
        names = ", ".join(NORMALIZATIONS)
        raise GraphPruneError(f"no normalisation {normalize!r}: choose from {names}")
    return NORMALIZATIONS[normalize](scores)
