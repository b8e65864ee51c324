"""Importance: how much each index of each coupled group matters.

A criterion of the library is a function of a `Context` that gives contributions for each group; a
user's own is that, or simply a function of one weight and one dimension.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from graphprune.core.errors import GraphPruneError
from graphprune.importance import activations, gradients, weights
from graphprune.importance.context import Context, Loss, Parts, by_slice
from graphprune.importance.kernels import Scores

Criterion: TypeAlias = Callable[..., Any]
"""A user's own criterion: `(weight, dim) -> scores`, one for each slice of a weight along a
dimension, which are summed over every slice that an index owns; or `(context) -> parts`."""

Named: TypeAlias = Callable[[Context], Parts]

CRITERIA: dict[str, Named] = {
    "l1": weights.l1,
    "l2": weights.l2,
    "group_norm": weights.group_norm,
    "bn_scale": weights.bn_scale,
    "fpgm": weights.fpgm,
    "random": weights.random,
    "mu-2sigma": weights.group_norm,
    "synflow": gradients.synflow,
    "taylor": gradients.taylor,
    "snip": gradients.snip,
    "grasp": gradients.grasp,
    "fisher": gradients.fisher,
    "obd": gradients.obd,
    "activation": activations.activation,
    "activation_variance": activations.activation_variance,
    "apoz": activations.apoz,
    "wanda": activations.wanda,
    "hrank": activations.hrank,
}
"""The criteria by name."""


def find(importance: str | Criterion) -> Named:
    """The criterion that a name or a user's function means.

    Raises:
        GraphPruneError: No criterion has this name, or the function takes other arguments.
    """
    if isinstance(importance, str):
        if importance not in CRITERIA:
            names = ", ".join(["auto", "obs", *CRITERIA])
            raise GraphPruneError(f"no importance criterion {importance!r}: choose from {names}")
        return CRITERIA[importance]
    if not callable(importance):
        raise GraphPruneError(f"importance is a name or a function, not {importance!r}")
    own = importance
    if len(inspect.signature(own).parameters) == 1:
        return own

    def sums(tensor: torch.Tensor, dims: Sequence[int]) -> dict[int, Any]:
        return {dim: own(tensor, dim) for dim in dims}

    return lambda context: by_slice(context.deps, sums)


__all__ = ["CRITERIA", "Context", "Criterion", "Loss", "Named", "Parts", "Scores", "find"]
