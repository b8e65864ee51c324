"""What all penalties share: how they are added, and how a budget is met."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from graphprune.api import plan
from graphprune.core.errors import OptionError
from graphprune.core.groups import Group
from graphprune.costs.registry import Counting, cost_name
from graphprune.plans import Plan
from graphprune.training.attached import Attached
from graphprune.training.coupled import Coupled, Owned

CLOSED = 0.01
"""An index counts as closed where its norm is below this share of its group's largest: a hundredth
of the norm is a ten-thousandth of what the index adds to the squared output. Not measured."""

GROWTH = 1.5
"""By how much the strength grows while a budget is not met: two growths double it. From 0.1, forty
looks met 80 % of the parameters of a small ResNet in 48 steps, with learning rates up to 1e-3."""


class Penalty(Attached):
    """What all penalties share: a strength, fixed or raised until a budget is met.

    With `target`, what `graphprune.plan(model, target, of, importance=criterion)` (with `data`:
    `plan(model, target, of, data=data)`) would remove at the first look is pressed from then on,
    and nothing else (Wang et al., Neural Pruning via Growing Regularization, ICLR 2021): a strength
    that grows would close all in the end. The target is met once all of that is closed.

    Args:
        model: The model that is trained; wrappers are looked through.
        strength: λ, of the term λ·R(w) that is added to the loss.
        example_inputs: As for `graphprune.shrink`.
        keep: What to leave in peace: as for `graphprune.shrink`.
        target: Fraction of the cost to close. While it is not closed, the strength grows by
            `GROWTH` every `every` steps; once it is, it stays. None: it is fixed.
        of: The cost that `target` speaks of.
        every: Optimizer steps between two looks at the target.
        proximal: Shrink the weights after each step, by the learning rate of the optimizer's first
            group times the strength, instead of adding a gradient. So an optimizer that scales
            gradients (Adam) does not scale the penalty, and exact zeros come of it (Parikh & Boyd,
            Proximal Algorithms, 2014). None: where there is a target.
        data: A few batches of inputs, as for `graphprune.shrink`: what is pressed is then what
            `graphprune.plan(model, target, of, data=data)` would remove, whose widths follow what
            each layer loses. Only with `target`; several processes pass the same.

    Raises:
        OptionError: A value is none that could be meant, or `target` is given with
            `proximal=False`: gradients turn around zero and close nothing.
        BudgetError: At the first look: so much cannot go.
    """

    criterion: ClassVar[str] = "group_norm"

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
        proximal: bool | None = None,
        data: Any = None,
    ) -> None:
        super().__init__()
        if not isinstance(strength, int | float) or not 0 <= strength < float("inf"):
            raise OptionError(f"strength is a number of at least 0, not {strength!r}")
        if target is not None and not 0 < target < 1:
            raise OptionError(f"target is the fraction to close, 0 < target < 1, not {target!r}")
        if target is not None and not strength:
            raise OptionError("strength=0 never grows: with target= it is a number above 0")
        if target is not None and proximal is False:
            raise OptionError(
                "target= needs the proximal step: a gradient makes weights turn around zero, so "
                "that a target is never met; leave proximal=False out"
            )
        if target is None and data is not None:
            raise OptionError("data= tells what a target presses: pass target= too")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise OptionError(f"every is a number of optimizer steps, not {every!r}")
        self.strength = float(strength)
        self.target, self.every = target, every
        self.proximal = target is not None if proximal is None else proximal
        self.coupled = Coupled(model, example_inputs, keep)
        self.met = target is None
        self.of = cost_name(of)
        self._given, self._data = (example_inputs, keep), data
        self._aims: list[torch.Tensor] | None = None

    def __call__(self) -> torch.Tensor:
        """λ·R(w), a scalar with gradients, for those who add it to the loss themselves."""
        raise NotImplementedError

    def proximate(self, rate: float) -> None:
        """The proximal step with learning rate η = `rate`."""
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

    def parameters(self) -> Iterable[nn.Parameter]:
        """Those of the model that is trained."""
        return self.coupled.model.parameters()

    @torch.no_grad()
    def scalars(self) -> dict[str, float]:
        """The strength, the penalty itself, and the share of indices that are closed."""
        closed, sizes = sum(self.closed().values()), sum(g.size for g in self.coupled.groups)
        value = float(self())
        return {"strength": self.strength, "penalty": value, "closed": closed / max(sizes, 1)}

    def before(self) -> None:
        """Add the penalty's gradient to that of the loss, unless the proximal step does it."""
        if not self.strength or self.proximal:
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
        """Shrink, and look at the target now and then."""
        if self.target is not None and self._aims is None and self.steps >= self.every:
            self._aims = self._chosen(self.target)
        if self.proximal:
            self.proximate(float(self.optimizer.param_groups[0]["lr"]))
        if not self.met and self.steps % self.every == 0:
            self.met = self._is_met(self._open())
            if not self.met:
                self.strength *= GROWTH

    def _is_met(self, open_: list[torch.Tensor]) -> bool:
        """Whether all is closed that should be, given what is open."""
        if self._aims is None:
            return False
        pairs = zip(self._aims, open_, strict=True)
        return not any(bool((aim & held.cpu()).any()) for aim, held in pairs)

    def _pressed(self, group: Group, like: torch.Tensor) -> torch.Tensor:
        """1 for each index that is pressed, 0 for the others."""
        if self.target is None:
            return torch.ones_like(like)
        if self._aims is None:
            return torch.zeros_like(like)
        return self._aims[group.id].to(like)

    def _chosen(self, target: float) -> list[torch.Tensor]:
        """What would be removed now, as truth values for each group."""
        inputs, keep = self._given
        options: dict[str, Any] = {"example_inputs": inputs, "keep": keep or ()}
        whole = [group.first.rpartition("[")[0] for group in self._left_alone()]
        if whole:
            options["limits"] = dict.fromkeys(whole, 1.0)
        if self._data is None:
            options |= {"importance": self.criterion, "compensate": False}
        else:
            options["data"] = self._data
        found: Plan[Any] = plan(self.coupled.model, target, self.of, **options)
        kept = {edit.name: edit.keep for edit in found.groups}
        out = []
        for group in self.coupled.groups:
            gone = torch.ones(group.size, dtype=torch.bool)
            held = kept.get(group.name)
            gone[slice(None) if held is None else torch.as_tensor(held)] = False
            out.append(gone)
        return out

    def _left_alone(self) -> list[Group]:
        """Groups that the penalty cannot close."""
        return []

    @torch.no_grad()
    def _open(self) -> list[torch.Tensor]:
        out = []
        for group in self.coupled.groups:
            norms = self.norms(group)
            out.append(norms > CLOSED * norms.max())
        return out

    def _held(self, group: Group) -> list[tuple[Owned, nn.Parameter]]:
        """The slices of a group that the penalty reads."""
        return list(self.coupled.parameters(group))

    def _weights(self) -> Iterator[nn.Parameter]:
        """The parameters that the penalty reads, each once."""
        seen: dict[int, nn.Parameter] = {}
        for group in self.coupled.groups:
            for _, parameter in self._held(group):
                seen[id(parameter)] = parameter
        yield from seen.values()

    def state_dict(self) -> dict[str, Any]:
        """The strength, what is pressed, and whether the target was met."""
        own = {"strength": self.strength, "met": self.met, "aims": self._aims}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        super().load_state_dict(state)
        self.strength, self.met = float(state["strength"]), bool(state["met"])
        self._aims = state.get("aims")
