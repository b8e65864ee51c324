"""Folds: factors that weights of a narrowed module take over from its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from graphprune.core.graph import Value


@dataclass(frozen=True)
class Fold:
    """Slices of a narrowed weight that are multiplied by a factor.

    Attributes:
        weight: The weight.
        rows: Which slices.
        factor: The factor.
        dim: The dimension that they lie along: outputs, or channels that are read.
    """

    weight: Value
    rows: tuple[int, ...]
    factor: float
    dim: int = 0

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """The folded weight."""
        out = tensor.clone()
        out.movedim(self.dim, 0)[list(self.rows)] *= self.factor
        return out


def fold_into(model: nn.Module, folds: Sequence[Fold]) -> None:
    """Multiply the weights of a narrowed module."""
    named = {**dict(model.named_buffers()), **dict(model.named_parameters())}
    for fold in folds:
        target = next(named[n] for n in (fold.weight.name, *fold.weight.aliases) if n in named)
        target.data.copy_(fold.apply(target.detach()))


def folded(
    values: Mapping[Value, torch.Tensor], folds: Sequence[Fold]
) -> dict[Value, torch.Tensor]:
    """Narrowed weights, with the folds applied."""
    out = dict(values)
    for fold in folds:
        out[fold.weight] = fold.apply(out[fold.weight])
    return out
