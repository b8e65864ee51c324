"""Penalties that drive whole coupled groups of weights to zero while a network trains.

A penalty adds its gradient to the weights' own before each optimizer step, or shrinks them after
it; the loss itself stays as it is. What it closed is removed by
`graphprune.shrink(model, ratio, importance="group_norm")` (of `ScaleL1` by `"bn_scale"`), and exact
zeros at no loss by `graphprune.compact(model)`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from graphprune.core.errors import OptionError
from graphprune.core.groups import Group
from graphprune.rules.scalings import gain
from graphprune.training.coupled import Owned
from graphprune.training.penalty import Penalty

_TINY = 1e-12  # below a norm: the gradient w/‖w‖ has no value at 0, and is 0 there


class GroupLasso(Penalty):
    """Group lasso over coupled groups: R(w) = Σ_g Σ_i √n_g·‖w_{g,i}‖.

    w_{g,i} is all that index i of group g owns, in every layer that holds it, and n_g how many
    numbers that are; so wide groups weigh as much as narrow ones for each of their numbers (Yuan &
    Lin, 2006; for channels Wen et al., 2016, and for coupled ones Fang et al., CVPR 2023).

    The proximal step is w_{g,i} ← w_{g,i}·max(0, 1 - η·λ·√n_g/‖w_{g,i}‖), η the learning rate. A
    weight with two coupled dimensions is shrunk along one after the other.

    The arguments are those of `Penalty`.

    Example::

        penalty = GroupLasso(model, 1e-4, example_inputs=x).attach(optimizer)
        ...                                     # train as ever
        small = graphprune.shrink(model, 0.8, importance="group_norm")
    """

    kind: ClassVar[str] = "group_lasso"

    def __call__(self) -> torch.Tensor:
        """λ·Σ_g Σ_i √n_g·‖w_{g,i}‖."""
        total: torch.Tensor | None = None
        for group in self.coupled.groups:
            squares = self.coupled.squares(group)
            root = self.coupled.width(group) ** 0.5
            term = root * ((squares + _TINY).sqrt() * self._pressed(group, squares)).sum()
            total = term if total is None else total + term.to(total)
        assert total is not None
        return self.strength * total

    @torch.no_grad()
    def proximate(self, rate: float) -> None:
        """The proximal step with learning rate η = `rate`."""
        for group in self.coupled.groups:
            norms = self.coupled.squares(group).sqrt()
            loss = rate * self.strength * self.coupled.width(group) ** 0.5
            pressed = self._pressed(group, norms)
            factors = (1 - loss * pressed / norms.clamp(min=_TINY)).clamp(min=0)
            for owned, parameter in self._held(group):
                parameter.copy_(owned.scale(parameter, factors))


class L1(Penalty):
    """Lasso: R(w) = Σ |w| over all weights that hold a coupled group (Tibshirani, 1996).

    Single weights go to zero; whole indices where all that they own does. The proximal step is
    w ← sign(w)·max(0, |w| - η·λ). The arguments are those of `Penalty`.
    """

    kind: ClassVar[str] = "l1"

    def __call__(self) -> torch.Tensor:
        """λ·Σ |w|."""
        terms = [(weight.abs() * mask).sum() for weight, mask in self._masked()]
        return self.strength * torch.stack([term.to(terms[0]) for term in terms]).sum()

    @torch.no_grad()
    def proximate(self, rate: float) -> None:
        """The proximal step with learning rate η = `rate`."""
        for weight, mask in self._masked():
            less = (weight.abs() - rate * self.strength * mask).clamp(min=0)
            weight.copy_(weight.sign() * less)

    @torch.no_grad()
    def _masked(self) -> list[tuple[nn.Parameter, torch.Tensor]]:
        """Each weight with 1 where an index owns it that is pressed, and 0 elsewhere."""
        found: dict[int, tuple[nn.Parameter, torch.Tensor]] = {}
        for group in self.coupled.groups:
            for owned, parameter in self._held(group):
                pressed = self._pressed(group, parameter.new_zeros(group.size))
                rows = owned.spread(pressed, parameter.dim())
                _, mask = found.get(id(parameter), (parameter, torch.zeros_like(parameter)))
                found[id(parameter)] = parameter, torch.maximum(mask, rows)
        return list(found.values())


class ScaleL1(L1):
    """L1 on the scales of normalisation layers, R = Σ |gamma|.

    Liu et al., Network Slimming, ICCV 2017.

    An index is closed where all scales that it owns are; with `target`, that of
    `graphprune.plan(model, target, of, importance="bn_scale")` are pressed. Groups without scales
    stay whole. The arguments are those of `Penalty`.

    Raises:
        OptionError: No normalisation with a scale holds a coupled group.
    """

    kind: ClassVar[str] = "scale_l1"
    criterion: ClassVar[str] = "bn_scale"

    def __init__(self, model: nn.Module, strength: float, **options: Any) -> None:
        super().__init__(model, strength, **options)
        names = {id(p): name for name, p in self.coupled.model.named_parameters()}
        gains = (gain(op) for op in self.coupled.deps.source.ops)
        tensors = [value.tensor for value in gains if value is not None]
        self._scales = {names[id(t)] for t in tensors if id(t) in names}
        if not any(self._held(group) for group in self.coupled.groups):
            raise OptionError(
                "no normalisation with a scale holds a channel that may go: use GroupLasso"
            )

    def norms(self, group: Group) -> torch.Tensor:
        """The scales that each index owns; where a group has none, nothing of it is closed."""
        held = self._held(group)
        if not held:
            return torch.ones(group.size)
        parts = [owned.squares(p, group.size) for owned, p in held]
        return torch.stack([part.to(parts[0]) for part in parts]).sum(0).sqrt()

    def _left_alone(self) -> list[Group]:
        return [group for group in self.coupled.groups if not self._held(group)]

    def _held(self, group: Group) -> list[tuple[Owned, nn.Parameter]]:
        return [(o, p) for o, p in self.coupled.parameters(group) if o.name in self._scales]
