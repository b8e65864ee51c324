"""order: where the samples of a value lie.

Most values have their samples first. Values of recurrent layers and of PyTorch's attention may have
the steps of a sequence first, and where both are one dimension, as `(steps samples) x channels`,
samples lie behind steps, too.

Example:
    Rows of 2 steps of 3 samples, `a₁ b₁ c₁ a₂ b₂ c₂`: nothing lies behind the samples (1 place),
    and `by_sample(rows, 3, 1)` gives `a₁ a₂`, `b₁ b₂`, `c₁ c₂`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Arranged:
    """How to read a value sample after sample.

    Attributes:
        channel: Its dimension of channels.
        size: Number of samples.
        after: Places behind each sample (`behind`).
    """

    channel: int
    size: int
    after: int | None

    @staticmethod
    def of(deps: Dependencies, value: Value, channel: int, size: int) -> Arranged:
        """That of a value of a graph."""
        return Arranged(channel, size, behind(deps, value, channel))

    def by_sample(self, x: torch.Tensor) -> torch.Tensor:
        """The value as `samples x places x channels`; as one sample where it has none."""
        rows = x.movedim(self.channel, -1)
        rows = rows.reshape(-1, rows.shape[-1])
        return by_sample(rows, self.size if len(rows) % self.size == 0 else 1, self.after)

    def restored(self, samples: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """The inverse of `by_sample`: numbers in the shape of the value."""
        number, _, channels = samples.shape
        if self.after is not None:
            samples = samples.reshape(number, -1, self.after, channels).movedim(0, 1)
        lengths = [*shape]
        lengths.append(lengths.pop(self.channel))
        return samples.reshape(lengths).movedim(-1, self.channel)
