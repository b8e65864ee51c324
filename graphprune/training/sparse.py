"""Train with most single weights at zero: gradual magnitude, RigL, SET, or fixed masks.

The weights stay dense tensors that hold zeros: fewer bytes when compressed, no speed-up without
sparse kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from graphprune.core.errors import GraphPruneError, OptionError, nearest
from graphprune.core.graph import Value
from graphprune.core.groups import matches
from graphprune.importance import Context, Loss
from graphprune.importance.gradients import flows, preservations, sensitivities
from graphprune.models import given_data
from graphprune.planning import opened_and_coupled
from graphprune.rules.readings import reading, recurrent
from graphprune.sparsity import spread as spreading
from graphprune.sparsity.patterns import pattern_of
from graphprune.statistics.batches import read_batches
from graphprune.training.attached import Attached, bare
from graphprune.training.coupled import CHANGED
from graphprune.training.schedule import Schedule

METHODS = ("gradual", "rigl", "set", "fixed")
"""What happens to the masks while the network trains: they close by magnitude along the schedule
(Zhu & Gupta, 2017); weights move to where the gradient is largest (Evci et al., RigL, ICML 2020) or
to random places (Mocanu et al., SET, 2018); nothing."""

STARTS = ("magnitude", "random", "snip", "grasp", "synflow")
"""What decides which weights are open at first."""

SPREADS = ("erk", "uniform", "global")
"""How the open weights are spread over the layers."""

MOVED = 0.3
"""Fraction f of the open weights that RigL and SET move at first; it falls as f/2·(1 + cos(πt/T))
to 0 at the end of the schedule. The RigL paper's value (section 4)."""


class SparseTraining(Attached):
    """Keep a fraction of all single weights at zero while the network trains.

    Args:
        model: The model that is trained; wrappers are looked through. Its weights are zeroed in
            place where masked; gradients and momenta of masked weights are zeroed before each step.
        schedule: When masks change, and the sparsity: the fraction of the masked layers' weights
            that are zero. For RigL, SET and fixed masks it is `final` from the start on.
        method: A name in `METHODS`.
        start: A name in `STARTS`; `"random"` for RigL and SET, else `"magnitude"`, where not given.
        spread: `"erk"`: layer l keeps a share proportional to (Σ n)/(Π n) over its dimensions
            (Erdős-Rényi kernel; Evci et al.); `"uniform"`: the same share of each; `"global"`: the
            scores decide. ERK for RigL and SET, else global, where not given.
        pattern: `"unstructured"`, or `"n:m"` such as `"2:4"`: of each m neighbours along the
            inputs n stay; the sparsity is then 1 - n/m, whatever the schedule says.
        example_inputs: As for `graphprune.shrink`.
        data: For `"snip"` and `"grasp"`: batches of (inputs, labels).
        loss: For `"snip"` and `"grasp"`: as for `graphprune.shrink`.
        keep: Name patterns of layers or weights that stay dense. By default all weights that are
            read linearly get masks.
        seed: For whatever is drawn.

    Attributes:
        masks: For each masked parameter by name, where it may differ from zero.

    Raises:
        OptionError: A value is none that could be meant.

    Example::

        schedule = Schedule(final=0.9, end=3000, every=100)
        sparse = SparseTraining(model, schedule, "rigl", example_inputs=x).attach(optimizer)
        ...                                     # train as ever
        print(sparse.sparsity())
    """

    kind: ClassVar[str] = "sparse"

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        method: str = "gradual",
        *,
        start: str | None = None,
        spread: str | None = None,
        pattern: str = "unstructured",
        example_inputs: Any = None,
        data: Any = None,
        loss: Loss | None = None,
        keep: Any = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(schedule, Schedule):
            raise OptionError(f"schedule is a graphprune.training.Schedule, not {schedule!r}")
        moving = method in ("rigl", "set")
        start = start or ("random" if moving else "magnitude")
        spread = spread or ("erk" if moving else "global")
        for what, value, known in (
            ("method", method, METHODS), ("start", start, STARTS), ("spread", spread, SPREADS),
        ):  # fmt: skip
            if value not in known:
                raise OptionError(f"no {what} {value!r}: {nearest(value, known)}")
        self.model = bare(model)
        self.schedule, self.method, self.spread = schedule, method, spread
        self._pattern = pattern_of(pattern)
        if self._pattern.cells > 1:
            raise OptionError(f"pattern {pattern!r}: while training, zeros lie freely or as 'n:m'")
        self._generator = torch.Generator().manual_seed(seed)
        self._layers = _layers(self.model, example_inputs, keep)
        scores = self._scores(start, example_inputs, data, loss, seed)
        gradual = method == "gradual"
        sparsity = schedule.at(0) if gradual else schedule.final
        self.masks = self._chosen(scores, sparsity)
        self._growth: dict[str, torch.Tensor] = {}
        self._apply()

    def sparsity(self) -> float:
        """The fraction of the masked layers' weights that are masked."""
        whole = sum(mask.numel() for mask in self.masks.values())
        kept = sum(int(mask.sum()) for mask in self.masks.values())
        return 1 - kept / whole

    def parameters(self) -> Iterable[nn.Parameter]:
        """Those of the model that is trained."""
        return self.model.parameters()

    def scalars(self) -> dict[str, float]:
        """The fraction of the masked layers' weights that are masked."""
        return {"sparsity": self.sparsity()}

    @torch.no_grad()
    def before(self) -> None:
        """Zero the gradients of masked weights; RigL keeps them where masks are about to move."""
        due = self.method == "rigl" and self._moves(self.steps + 1)
        self._growth = {}
        for name, mask in self.masks.items():
            weight = self.model.get_parameter(name)
            if weight.shape != mask.shape:
                raise GraphPruneError(CHANGED.format(name))
            gradient = weight.grad
            if gradient is None:
                continue
            if due:
                self._growth[name] = gradient.detach().clone()
            gradient.mul_(mask)

    @torch.no_grad()
    def after(self) -> None:
        """Zero masked weights; change the masks where the schedule says so."""
        if self.method == "gradual" and self.schedule.due(self.steps) and not self._pattern.of:
            scores = {n: self.model.get_parameter(n).detach().abs() for n in self.masks}
            for name, mask in self.masks.items():  # what is closed stays closed
                scores[name] = torch.where(mask, scores[name], -1.0)
            self.masks = self._chosen(scores, self.schedule.at(self.steps))
        elif self.method in ("rigl", "set") and self._moves(self.steps):
            self._move()
        self._apply()

    def _moves(self, step: int) -> bool:
        return step > 0 and step < self.schedule.end and self.schedule.due(step)

    def _move(self) -> None:
        """Close the smallest open weights, open as many others."""
        end = max(self.schedule.end, 1)
        share = MOVED / 2 * (1 + math.cos(math.pi * self.steps / end))
        for name, mask in self.masks.items():
            weight = self.model.get_parameter(name)
            wish = self._growth.get(name)
            if self.method == "set" or wish is None:
                wish = torch.rand(weight.shape, generator=self._generator).to(weight.device)
            moved = _moved(weight.detach().abs(), wish.abs(), mask, share, self._pattern.of)
            self._forget(weight, moved & ~mask)
            self.masks[name] = moved

    def _forget(self, weight: nn.Parameter, opened: torch.Tensor) -> None:
        """Newly opened weights start at zero, without a past."""
        weight[opened] = 0
        if self._optimizer is not None:
            for held in self._optimizer.state.get(weight, {}).values():
                if isinstance(held, torch.Tensor) and held.shape == weight.shape:
                    held[opened] = 0

    @torch.no_grad()
    def _apply(self) -> None:
        """Zero what is masked, in the weights and in the optimizer's memory of them."""
        for name, mask in self.masks.items():
            weight = self.model.get_parameter(name)
            weight.mul_(mask)
            if self._optimizer is not None:
                for held in self._optimizer.state.get(weight, {}).values():
                    if isinstance(held, torch.Tensor) and held.shape == weight.shape:
                        held.mul_(mask)

    def _scores(
        self, start: str, example_inputs: Any, data: Any, loss: Loss | None, seed: int
    ) -> dict[str, torch.Tensor]:
        """What decides which weights are open at first, by name; the highest stay."""
        if start == "magnitude":
            return {n: self.model.get_parameter(n).detach().abs() for n in self._layers}
        if start == "random":
            return {
                name: torch.rand(value.shape, generator=self._generator).to(value.tensor.device)
                for name, value in self._layers.items()
            }
        opened, deps = opened_and_coupled(self.model, example_inputs)
        batches = read_batches(given_data(data, self.model), self.model) if data is not None else ()
        context = Context(deps, self.model, opened.program.example(), batches, loss, seed)
        context.name = start
        kinds = {"snip": sensitivities, "grasp": preservations, "synflow": flows}
        found = {value.name: scores for value, scores in kinds[start](context).items()}
        return {name: found[name] for name in self._layers}

    def _chosen(
        self, scores: Mapping[str, torch.Tensor], sparsity: float
    ) -> dict[str, torch.Tensor]:
        """Masks that keep the highest scores."""
        if self._pattern.of:
            kept, of = self._pattern.kept, self._pattern.of
            return {name: _n_of_m(held, kept, of) for name, held in scores.items()}
        held = list(scores.values())
        sizes = np.array([x.numel() for x in held], np.int64)
        total = round(sparsity * int(sizes.sum()))
        if self.spread == "global":
            gone = spreading.least(held, total)
        elif self.spread == "uniform":
            gone = spreading.uniform(sizes, total)
        else:
            gone = spreading.erk([tuple(x.shape) for x in held], sizes, total)
        return {
            name: _top(x, x.numel() - int(number))
            for (name, x), number in zip(scores.items(), gone, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """Steps, masks, and the state of what draws."""
        masks = {name: mask.cpu().clone() for name, mask in self.masks.items()}
        return {**super().state_dict(), "masks": masks, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            GraphPruneError: It belongs to another model.
        """
        masks = state.get("masks", {})
        for name, mask in self.masks.items():
            if name not in masks or masks[name].shape != mask.shape:
                raise GraphPruneError(f"the state has no mask for {name} of {tuple(mask.shape)}")
        super().load_state_dict(state)
        self.masks = {n: masks[n].to(mask.device) for n, mask in self.masks.items()}
        self._generator.set_state(state["generator"])
        self._apply()


def _layers(model: nn.Module, example_inputs: Any, keep: Any) -> dict[str, Value]:
    """Trainable weights that are read linearly, by name."""
    opened, deps = opened_and_coupled(model, example_inputs)
    patterns = opened.patterns(keep, "keep")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, Value] = {}
    for op in deps.source.ops:
        read = reading(op)
        readings = [read] if read is not None and not isinstance(read, str) else recurrent(op)
        for one in readings:
            name = names.get(id(one.weight.tensor))
            if name is not None and not any(matches(one.weight, p) for p in patterns):
                found[name] = one.weight
    if not found:
        raise OptionError("no weight of this model is read linearly, or keep= names all of them")
    return found


def _top(scores: torch.Tensor, number: int) -> torch.Tensor:
    """A mask of the highest scores."""
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().topk(number).indices] = True
    return mask.reshape(scores.shape)


def _blocks(held: torch.Tensor, m: int) -> torch.Tensor | None:
    """A weight as rows of m neighbours along its inputs; None where m does not divide them."""
    rows = held.movedim(1, -1) if held.dim() > 1 else held
    return rows.reshape(-1, m) if rows.shape[-1] % m == 0 else None


def _unblocked(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of `_blocks`."""
    if like.dim() < 2:
        return rows.reshape(like.shape)
    return rows.reshape(like.movedim(1, -1).shape).movedim(-1, 1)


def _n_of_m(scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """A mask of the n highest of each m; all where m does not divide the inputs."""
    rows = _blocks(scores, m)
    if rows is None:
        return torch.ones_like(scores, dtype=torch.bool)
    mask = torch.zeros_like(rows, dtype=torch.bool)
    mask.scatter_(1, rows.topk(n, dim=1).indices, True)
    return _unblocked(mask, scores)


def _moved(
    size: torch.Tensor,
    wish: torch.Tensor,
    mask: torch.Tensor,
    share: float,
    block: int,
) -> torch.Tensor:
    """A mask with a share of its open weights moved: the smallest close, the most wished open.

    With blocks of so many neighbours, each swap stays in its block, and the blocks with the
    smallest open weights swap.
    """
    rows = _blocks(mask, block) if block else None
    if block and rows is None:
        return mask
    if rows is None:
        number = min(int(share * int(mask.sum())), int((~mask).sum()))
        closed = _top(torch.where(mask, -size, -math.inf), number)
        open_ = mask & ~closed
        return open_ | _top(torch.where(open_ | closed, -math.inf, wish), number)
    small = _blocks(torch.where(mask, size, math.inf), block)
    large = _blocks(torch.where(mask, -math.inf, wish), block)
    assert small is not None and large is not None
    least = small.min(1)
    number = int(share * int(mask.sum()))
    chosen = least.values.argsort()[: min(number, len(rows))]
    moved = rows.clone()
    moved[chosen, least.indices[chosen]] = False
    moved[chosen, large.argmax(1)[chosen]] = True
    return _unblocked(moved, mask)
