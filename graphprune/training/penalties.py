"""Penalties that drive whole coupled groups of weights to zero while a network trains.

A penalty adds its gradient to the weights' own before each optimizer step; the loss itself stays as
it is. What it closed is removed by `graphprune.shrink(model, ratio, importance="group_norm")`, and
exact zeros at no loss by `graphprune.compact(model)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import nn

from graphprune.api import plan
from graphprune.core.errors import OptionError
from graphprune.core.groups import Group
from graphprune.costs.registry import Counting, cost_name
from graphprune.plans import Plan
from graphprune.rules.scalings import gain
from graphprune.training.attached import Attached
from graphprune.training.coupled import Coupled
from graphprune.training.spent import Spent

CLOSED = 0.01
"""An index counts as closed where its norm is below this share of its group's largest: a hundredth
of the norm is a ten-thousandth of what the index adds to the squared output. Not measured."""

GROWTH = 1.5
"""By how much the strength grows while a budget is not met: two growths double it. From 0.1, forty
looks met 80 % of the parameters of a small ResNet in 48 steps, with learning rates up to 1e-3."""

_TINY = 1e-12  # below a norm: the gradient w/‖w‖ has no value at 0, and is 0 there


class Penalty(Attached):
    """What all penalties share: a strength, fixed or raised until a budget is met.

    Args:
        model: The model that is trained; wrappers are looked through.
        strength: λ, of the term λ·R(w) that is added to the loss.
        example_inputs: As for `graphprune.shrink`.
        keep: What to leave in peace: as for `graphprune.shrink`.
        target: Fraction of the cost to close. While less is closed, the strength grows by
            `GROWTH` every `every` steps; once it is met, it stays. None: it is fixed.
        of: The cost that `target` speaks of.
        every: Optimizer steps between two looks at the target.

    Raises:
        OptionError: A value is none that could be meant.
    """

    def __init__(
        self,
        model: nn.Module,
        strength: float,
        *,
        example_inputs: Any = None,
        keep: Any = (),
        target: float | None = None,
        of: str | Counting = "params",
        every: int = 100,
    ) -> None:
        super().__init__()
        if not isinstance(strength, int | float) or not 0 <= strength < float("inf"):
            raise OptionError(f"strength is a number of at least 0, not {strength!r}")
        if target is not None and not 0 < target < 1:
            raise OptionError(f"target is the fraction to close, 0 < target < 1, not {target!r}")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(f"every is a number of optimizer steps, not {every!r}")
        self.strength = float(strength)
        self.target, self.every = target, every
        self.coupled = Coupled(model, example_inputs, keep)
        self.met = target is None
        self.of = cost_name(of)

    @cached_property
    def _spent(self) -> Spent:
        return Spent(self.coupled.deps, self.of)

    def __call__(self) -> torch.Tensor:
        """λ·R(w), a scalar with gradients, for those who add it to the loss themselves."""
        raise NotImplementedError

    def norms(self, group: Group) -> torch.Tensor:
        """What tells whether an index is closed: ‖w_i‖ of all that it owns."""
        return self.coupled.squares(group).sqrt()

    def closed(self) -> dict[str, int]:
        """How many indices of each group are closed."""
        return {
            group.name: int((~held).sum())
            for group, held in zip(self.coupled.groups, self._open(), strict=True)
        }

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        """The strength, the penalty itself, and the share of indices that are closed."""
        closed, sizes = sum(self.closed().values()), sum(g.size for g in self.coupled.groups)
        value = float(self())
        return {"strength": self.strength, "penalty": value, "closed": closed / max(sizes, 1)}

    def before(self) -> None:
        """Add the penalty's gradient to that of the loss."""
        if not self.strength:
            return
        with torch.enable_grad():
            value = self()
        weights = [p for p in self._weights() if p.requires_grad]
        found = torch.autograd.grad(value, weights, allow_unused=True)
        for weight, gradient in zip(weights, found, strict=True):
            if gradient is None:
                continue
            if weight.grad is None:
                weight.grad = gradient
            else:
                weight.grad = weight.grad + gradient

    def after(self) -> None:
        """Look at the target now and then."""
        if not self.met and self.steps % self.every == 0:
            self.met = self._is_met(self._open())
            if not self.met:
                self.strength *= GROWTH

    def _is_met(self, open_: list[torch.Tensor]) -> bool:
        """Whether so much is closed as should be, given what is open."""
        assert self.target is not None
        return 1 - self._spent.of_open(open_) >= self.target

    @torch.no_grad()
    def _open(self) -> list[torch.Tensor]:
        out = []
        for group in self.coupled.groups:
            norms = self.norms(group)
            out.append(norms > CLOSED * norms.max())
        return out

    def _weights(self) -> Iterator[nn.Parameter]:
        """The parameters that the penalty reads, each once."""
        seen: dict[int, nn.Parameter] = {}
        for group in self.coupled.groups:
            for _, parameter in self.coupled.parameters(group):
                seen[id(parameter)] = parameter
        yield from seen.values()

    def state_dict(self) -> dict[str, Any]:
        """The strength, and whether the target was met."""
        return {**super().state_dict(), "strength": self.strength, "met": self.met}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        super().load_state_dict(state)
        self.strength, self.met = float(state["strength"]), bool(state["met"])


class GroupLasso(Penalty):
    """Group lasso over coupled groups: R(w) = Σ_g Σ_i √n_g·‖w_{g,i}‖.

    w_{g,i} is all that index i of group g owns, in every layer that holds it, and n_g how many
    numbers that are; so wide groups weigh as much as narrow ones for each of their numbers (Yuan &
    Lin, 2006; for channels Wen et al., 2016, and for coupled ones Fang et al., CVPR 2023).

    Args:
        proximal: Shrink after each step instead of adding a gradient, so that an optimizer that
            scales gradients (Adam) does not scale the penalty; None: where there is a target. The
            step is
            w_{g,i} ← w_{g,i}·max(0, 1 - η·λ·√n_g/‖w_{g,i}‖), η the learning rate; exact zeros
            come of it (Parikh & Boyd, Proximal Algorithms, 2014). A weight with two coupled
            dimensions is shrunk along one after the other.

    With `target`, what `graphprune.plan(model, target, of, importance="group_norm")` would remove
    at the first look is pressed from then on, and nothing else (Wang et al., Neural Pruning via
    Growing Regularization, ICLR 2021): a strength that grows would close all in the end. The target
    is met once all of that is closed.

    The other arguments are those of `Penalty`.

    Raises:
        BudgetError: At the first look: so much cannot go.

    Example::

        penalty = GroupLasso(model, 1e-4, example_inputs=x).attach(optimizer)
        ...                                     # train as ever
        small = graphprune.shrink(model, 0.8, importance="group_norm")
    """

    kind: ClassVar[str] = "group_lasso"

    def __init__(
        self, model: nn.Module, strength: float, *, proximal: bool | None = None, **options: Any
    ) -> None:
        super().__init__(model, strength, **options)
        self.proximal = self.target is not None if proximal is None else proximal
        self._given = {name: options.get(name) for name in ("example_inputs", "keep")}
        self._aims: list[torch.Tensor] | None = None

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

    def before(self) -> None:
        """Add the gradient, unless the proximal step does the work."""
        if not self.proximal:
            super().before()

    def after(self) -> None:
        """Shrink what each index owns."""
        if self.target is not None and self._aims is None and self.steps >= self.every:
            self._aims = self._chosen()
        if self.proximal:
            self.shrink_norms(float(self.optimizer.param_groups[0]["lr"]))
        super().after()

    def _pressed(self, group: Group, like: torch.Tensor) -> torch.Tensor:
        """1 for each index that is pressed, 0 for the others."""
        if self.target is None:
            return torch.ones_like(like)
        if self._aims is None:
            return torch.zeros_like(like)
        return self._aims[group.id].to(like)

    def _chosen(self) -> list[torch.Tensor]:
        """What would be removed now, as truth values for each group."""
        found: Plan[Any] = plan(
            self.coupled.model, self.target, self.of, importance="group_norm", compensate=False,
            example_inputs=self._given["example_inputs"], keep=self._given["keep"] or (),
        )  # fmt: skip
        kept = {edit.name: edit.keep for edit in found.groups}
        out = []
        for group in self.coupled.groups:
            gone = torch.ones(group.size, dtype=torch.bool)
            held = kept.get(group.name)
            gone[slice(None) if held is None else torch.as_tensor(held)] = False
            out.append(gone)
        return out

    def _is_met(self, open_: list[torch.Tensor]) -> bool:
        if self._aims is None:
            return False
        pairs = zip(self._aims, open_, strict=True)
        return not any(bool((aim & held.cpu()).any()) for aim, held in pairs)

    def state_dict(self) -> dict[str, Any]:
        """As every penalty, and what is pressed."""
        return {**super().state_dict(), "aims": self._aims}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        super().load_state_dict(state)
        self._aims = state.get("aims")

    @torch.no_grad()
    def shrink_norms(self, rate: float) -> None:
        """The proximal step with learning rate η = `rate`."""
        for group in self.coupled.groups:
            norms = self.coupled.squares(group).sqrt()
            loss = rate * self.strength * self.coupled.width(group) ** 0.5
            pressed = self._pressed(group, norms)
            factors = (1 - loss * pressed / norms.clamp(min=_TINY)).clamp(min=0)
            for owned, parameter in self.coupled.parameters(group):
                parameter.copy_(owned.scale(parameter, factors))


class L1(Penalty):
    """Lasso: R(w) = Σ |w| over all weights that hold a coupled group (Tibshirani, 1996).

    Single weights go to zero; whole indices where all that they own does. The arguments are those
    of `Penalty`.
    """

    kind: ClassVar[str] = "l1"

    def __call__(self) -> torch.Tensor:
        """λ·Σ |w|."""
        terms = [weight.abs().sum() for weight in self._weights()]
        return self.strength * torch.stack([term.to(terms[0]) for term in terms]).sum()


class ScaleL1(Penalty):
    """L1 on the scales of normalisation layers, R = Σ |gamma|.

    Liu et al., Network Slimming, ICCV 2017.

    An index is closed where all scales that it owns are. The arguments are those of `Penalty`.

    Raises:
        OptionError: No normalisation with a scale holds a coupled group.
    """

    kind: ClassVar[str] = "scale_l1"

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

    def __call__(self) -> torch.Tensor:
        """λ·Σ |gamma|."""
        terms = [weight.abs().sum() for weight in self._weights()]
        return self.strength * torch.stack([term.to(terms[0]) for term in terms]).sum()

    def norms(self, group: Group) -> torch.Tensor:
        """The scales that each index owns; where a group has none, nothing of it is closed."""
        held = self._held(group)
        if not held:
            return torch.ones(group.size)
        parts = [owned.squares(p, group.size) for owned, p in held]
        return torch.stack([part.to(parts[0]) for part in parts]).sum(0).sqrt()

    def _held(self, group: Group) -> list[Any]:
        return [(o, p) for o, p in self.coupled.parameters(group) if o.name in self._scales]

    def _weights(self) -> Iterator[nn.Parameter]:
        seen: dict[int, nn.Parameter] = {}
        for group in self.coupled.groups:
            for _, parameter in self._held(group):
                seen[id(parameter)] = parameter
        yield from seen.values()
