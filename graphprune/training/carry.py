"""Carry an optimizer along when a model becomes smaller: its moments are cut with its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from graphprune.core.errors import GraphPruneError
from graphprune.core.indices import Indices

Kept = Mapping[str, "Sequence[Indices | None]"]
"""For each weight that shrinks, the positions kept in each dimension; None where all are."""


def become(model: nn.Module, small: nn.Module) -> None:
    """Let a module object be another one: those who hold it go on with the smaller network."""
    model.__class__ = small.__class__
    model.__dict__ = small.__dict__


def carry(
    optimizer: torch.optim.Optimizer,
    before: Mapping[str, nn.Parameter],
    after: Mapping[str, nn.Parameter],
    kept: Kept,
) -> None:
    """Let an optimizer go on with a smaller model's parameters.

    Each state tensor of a parameter's shape (momentum, Adam's moments) loses the slices that the
    parameter lost; others (step counters) stay. Learning rates and groups stay.

    Args:
        optimizer: The optimizer; changed in place.
        before: The model's parameters by name, as the optimizer holds them.
        after: The smaller model's.
        kept: The positions that stay.

    Raises:
        GraphPruneError: The optimizer holds state that cannot be cut; nothing was changed.
    """
    names = {id(parameter): name for name, parameter in before.items()}
    states = {}
    for name, parameter in before.items():
        if parameter in optimizer.state and name in after:
            held = optimizer.state[parameter]
            states[name] = {k: _cut(x, parameter, kept.get(name), k, name) for k, x in held.items()}
    for group in optimizer.param_groups:
        params = []
        for parameter in group["params"]:
            own = names.get(id(parameter))
            if own is None:
                params.append(parameter)
            elif own in after:
                params.append(after[own])
        group["params"] = params
    for name, parameter in before.items():
        if optimizer.state.pop(parameter, None) is not None and name in states:
            optimizer.state[after[name]] = states[name]


def _cut(
    held: Any, parameter: torch.Tensor, kept: Sequence[Indices | None] | None, key: str, name: str
) -> Any:
    """One entry of a parameter's state, without the slices that are gone."""
    if kept is None or not isinstance(held, torch.Tensor) or not held.dim():
        return held
    if held.shape != parameter.shape:
        raise GraphPruneError(
            f"the optimizer's {key!r} for {name} is of shape {tuple(held.shape)} and not of the "
            f"weight's {tuple(parameter.shape)}: it cannot be cut with the weight; use an "
            "optimizer whose state has the weights' shapes (SGD, Adam, AdamW, RMSprop, …)"
        )
    for dim, positions in enumerate(kept):
        if positions is not None:
            held = held.index_select(dim, torch.as_tensor(positions, device=held.device))
    return held
