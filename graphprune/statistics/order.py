"""order: where the samples of a value lie.

Most values have their samples first. Values of recurrent layers and of PyTorch's attention may have
the steps of a sequence first, and where both are one dimension, as `(steps samples) x channels`,
samples lie behind steps, too.

Example:
    Rows of 2 steps of 3 samples, `a₁ b₁ c₁ a₂ b₂ c₂`: nothing lies behind the samples (1 place),
    and `by_sample(rows, 3, 1)` gives `a₁ a₂`, `b₁ b₂`, `c₁ c₂`.
"""

from __future__ import annotations

from math import prod

import torch

from graphprune.core.axes import leaves
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import batch_axis


def behind(deps: Dependencies, value: Value, channel: int) -> int | None:
    """How many places of a value lie behind each of its samples.

    Args:
        deps: The analysis.
        value: The value.
        channel: Its dimension of channels, which are no places.

    Returns:
        None where samples come first, or it is not known where they lie.
    """
    batch, dims = batch_axis(deps), deps.dims[value]
    places = [
        leaf
        for number, dim in enumerate(dims)
        if number != channel % len(dims)
        for leaf in leaves(dim)
    ]
    if batch is None or places.count(batch) != 1:
        return None
    at = places.index(batch)
    return prod(leaf.size for leaf in places[at + 1 :]) if at else None


def by_sample(rows: torch.Tensor, size: int, after: int | None) -> torch.Tensor:
    """Rows sample after sample.

    Args:
        rows: `... x rows x channels`, the places of a value in its own order.
        size: Number of samples.
        after: Places behind each sample (`behind`).

    Returns:
        `... x samples x places x channels`.
    """
    *lead, _, channels = rows.shape
    if after is None:
        return rows.reshape(*lead, size, -1, channels)
    return rows.reshape(*lead, -1, size, after, channels).movedim(-3, -4).flatten(-3, -2)


def in_place(samples: torch.Tensor, after: int | None) -> torch.Tensor:
    """The inverse of `by_sample`: `... x rows x channels`."""
    if after is None:
        return samples.flatten(-3, -2)
    *lead, size, _, channels = samples.shape
    return samples.reshape(*lead, size, -1, after, channels).movedim(-4, -3).flatten(-4, -2)
