"""Gates inside a model: weights that are multiplied by them, and how they leave it again."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from graphprune.training.coupled import Owned
from graphprune.training.drawn import Gate


class Gated(nn.Module):
    """A parametrization: a weight whose slices are multiplied by gates.

    The first weight that sees a gate holds it, so that the model's optimizer, state dict and device
    hold it too; the tuple hides it from the list of submodules of the others.
    """

    def __init__(self, gate: Gate, owned: Owned, first: bool) -> None:
        super().__init__()
        self._gate = (gate,)
        self._owned = owned
        if first:
            self.gate = gate

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight times its gates."""
        return self._owned.scale(weight, self._gate[0]())


def only_gated(module: nn.Module, name: str) -> bool:
    """Whether a weight has gates, and no other parametrization."""
    return all(isinstance(step, Gated) for step in module.parametrizations[name])  # type: ignore[index]


def draw(module: nn.Module, _: Any) -> None:
    """Draw all gates of a model anew: a hook that runs before each forward pass."""
    for held in module.modules():
        if isinstance(held, Gate) and held.training:
            held.draw()


def strip(root: nn.Module) -> None:
    """Take all gates out of a model."""
    for number, hook in list(root._forward_pre_hooks.items()):
        if hook is draw:
            del root._forward_pre_hooks[number]
    for module in list(root.modules()):
        if not parametrize.is_parametrized(module):
            continue
        held = module.parametrizations
        assert isinstance(held, nn.ModuleDict)
        chains = {n: c for n, c in held.items() if any(isinstance(x, Gated) for x in c)}  # type: ignore[attr-defined]
        if not chains:
            continue
        module.eval()
        values = {name: getattr(module, name).detach().clone() for name in chains}
        training = {name: bool(chain.original.requires_grad) for name, chain in chains.items()}
        # Not `remove_parametrizations`: it takes the property off the class, which copies share.
        del module.parametrizations
        module.__class__ = module.__class__.__mro__[1]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value, training[name]))
