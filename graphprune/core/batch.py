"""Batch: the inputs of one forward pass, with labels where there are any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree


@dataclass(frozen=True)
class Batch:
    """Inputs of one forward pass.

    Attributes:
        args: Positional arguments of `forward`.
        kwargs: Its keyword arguments.
        labels: What the outputs should be, or None where the data does not tell.
        samples: Length of the first tensor's first dimension.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    labels: Any = None
    samples: int = 1

    def head(self, samples: int) -> Batch:
        """The first samples of the batch."""
        return self.part(0, samples)

    def part(self, start: int, stop: int) -> Batch:
        """The samples from `start` up to `stop`."""
        stop = min(stop, self.samples)

        def cut(x: torch.Tensor) -> torch.Tensor:
            return x[start:stop] if x.dim() and x.shape[0] == self.samples else x

        args, kwargs, labels = pytree.tree_map_only(
            torch.Tensor, cut, (self.args, self.kwargs, self.labels)
        )
        return Batch(args, kwargs, labels, stop - start)

    def split(self, samples: int) -> Iterator[Batch]:
        """Consecutive parts of exactly so many samples; a smaller rest is left out."""
        for start in range(0, self.samples - samples + 1, samples):
            yield self.part(start, start + samples)
