"""Gates: each index of each coupled group gets a number in [0, 1] that is learned.

A gate z_i multiplies the weights that *read* index i, so that z_i = 0 computes what the network
without the index computes. Where no weight reads it (the product q·kᵀ of attention), it multiplies
what writes it. The expected cost is a function of the gates' chances to be open, so that a budget
is part of what is learned.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.utils import parametrize
from typing_extensions import Self

from graphprune.api import plan
from graphprune.core.axes import atoms
from graphprune.core.errors import GraphPruneError, OptionError, nearest
from graphprune.core.groups import Dependencies
from graphprune.costs.registry import Counting
from graphprune.engine.copying import copied
from graphprune.plans import Plan
from graphprune.rules.readings import reading
from graphprune.training.attached import Attached
from graphprune.training.coupled import Coupled, Owned
from graphprune.training.drawn import KINDS, OPEN
from graphprune.training.gated import Gated, draw, only_gated, strip
from graphprune.training.spent import Spent

FAR = 0.1
"""A share of the cost that is left beyond what is asked, from which on a plan warns. Runs on digits
whose gates had moved ended 0.03 to 0.1 above it."""

_log = logging.getLogger("graphprune")

GATE_RATE = 0.05
"""Learning rate of log a, unless the warmup is shorter than its way at that rate."""

TRAVEL = 4.0
"""How far log a is from open to closed; a step of Adam goes as far as the learning rate."""

HIGHEST_RATE = 0.3
"""Of those that a short warmup may lead to: the highest that was tried. On digits, 48 steps with a
warmup of 24, a target of 0.2: at 0.05 a share of 0.80 was left, at 0.15 0.28, at 0.3 0.24."""

PRESSURE = 10.0
"""r of the augmented Lagrangian. The cost is a share in [0, 1]: at a tenth too much the pull is 1,
of the size of a cross-entropy. Not measured."""

DUAL_RATE = 0.01
"""By how much the multiplier m grows in a step, for each unit of cost that is too much. On two
convolutions at a target of 0.4, a hundred steps after the warmup, 0.1 ended at 0.26, 0.03 at 0.37,
0.01 at 0.41: larger ones run past the target while the gates, at their own rate, catch up."""


class Gates(Attached):
    """Learn which indices of every coupled group stay, at a budget.

    The loss gets the term m·(c - t) + r/2·(c - t)² while the expected share c of the cost is above
    its target t; the multiplier m rises with what is too much (augmented Lagrangian: Nocedal &
    Wright, Numerical Optimization, ch. 17). t falls from 1 to 1 - ratio during `warmup` steps.

    Args:
        model: The model that is trained. It is changed: weights that read gated indices are
            parametrized (`torch.nn.utils.parametrize`), the gates live in it. `remove` undoes it.
        ratio: Fraction of the cost to remove.
        of: The cost: `"params"`, `"macs"`, `"channels"`, `"memory"`, a registered one, or
            `"latency"`, the sum of the times of all operations in eager mode, measured at once.
        kind: `"hard_concrete"` (Louizos et al., L0 Regularization, ICLR 2018), `"bernoulli"`
            (straight-through) or `"gaussian"`.
        example_inputs: As for `graphprune.shrink`.
        keep: What gets no gates: as for `graphprune.shrink`.
        warmup: Optimizer steps until the target is the ratio.
        rate: Learning rate of the gates. None: `GATE_RATE`, or what lets them close within `warmup`
            where that is short, up to `HIGHEST_RATE`.
        mixed: Whether indices that a layer norm mixes get gates too. Their statistics go on
            counting what is closed, so that removing it changes the outputs.

    Raises:
        OptionError: A value is none that could be meant, or nothing can have gates.

    Example::

        gates = Gates(model, ratio=0.8, example_inputs=x, warmup=500).attach(optimizer)
        ...                                     # train as ever
        small = gates.plan().apply()
    """

    kind: ClassVar[str] = "gates"

    def __init__(
        self,
        model: nn.Module,
        ratio: float = 0.5,
        of: str | Counting = "params",
        *,
        kind: str = "hard_concrete",
        example_inputs: Any = None,
        keep: Any = (),
        warmup: int = 1000,
        rate: float | None = None,
        mixed: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio < 1:
            raise OptionError(f"ratio is the fraction to remove, 0 <= ratio < 1, not {ratio!r}")
        if kind not in KINDS:
            raise OptionError(f"no kind of gates {kind!r}: {nearest(kind, KINDS)}")
        if isinstance(warmup, bool) or not isinstance(warmup, int) or warmup < 0:
            raise OptionError(f"warmup is a number of optimizer steps, not {warmup!r}")
        if rate is not None and (not isinstance(rate, int | float) or not 0 < rate < float("inf")):
            raise OptionError(f"rate is a number above 0, or None, not {rate!r}")
        fast = min(TRAVEL / max(warmup, 1), HIGHEST_RATE)
        own = max(GATE_RATE, fast) if rate is None else float(rate)
        self.ratio, self.warmup, self.rate = float(ratio), warmup, own
        self.coupled = Coupled(model, example_inputs, keep)
        self._given = (example_inputs, keep)
        root = self.coupled.model
        if any(isinstance(module, Gated) for module in root.modules()):
            raise OptionError("the model has gates already: call .remove() on the others first")
        self._spent = Spent(self.coupled.deps, of)
        places = _places(self.coupled, mixed)
        if not places:
            raise OptionError(
                "nothing of this model can have gates: a layer norm mixes all that may go; pass "
                "mixed=True"
            )
        like = next(root.parameters())
        made = {number: KINDS[kind](self.coupled.groups[number].size, like) for number in places}
        for number, owned in ((n, o) for n, held in places.items() for o in held):
            path, _, name = owned.name.rpartition(".")
            module = root.get_submodule(path)
            if isinstance(module, parametrize.ParametrizationList) or (
                parametrize.is_parametrized(module, name) and not only_gated(module, name)
            ):
                raise OptionError(
                    f"{owned.name} is parametrized already: gates need a plain weight; take it off "
                    "(torch.nn.utils.parametrize.remove_parametrizations) or name it in keep="
                )
            # unsafe: the check would run the gates, and the shape stays as it is.
            step = Gated(made[number], owned, owned is places[number][0]).train(module.training)
            parametrize.register_parametrization(module, name, step, unsafe=True)
        self._gates = made
        self._multiplier = 0.0
        self._adam = torch.optim.Adam(self._alphas(), lr=self.rate)
        self._taken: list[torch.Tensor] = []
        root.register_forward_pre_hook(draw)

    def attached(self) -> None:
        """Put gates into the optimizer's first group, for whoever unscales or clips gradients.

        Those that are in a group stay there.

        It never updates them: their gradients are taken away before its step, and an Adam of their
        own follows. So its groups, their schedules and weight decay stay as they are.
        """
        groups = self.optimizer.param_groups
        held = {id(parameter) for group in groups for parameter in group["params"]}
        groups[0]["params"].extend(p for p in self._alphas() if id(p) not in held)

    def _alphas(self) -> list[nn.Parameter]:
        return [gate.log_alpha for gate in self._gates.values()]

    def left(self) -> torch.Tensor:
        """The expected share of the cost that is left, a scalar with gradients."""
        sizes = []
        for group in self.coupled.groups:
            gate = self._gates.get(group.id)
            full = torch.tensor(float(group.size), dtype=torch.float64)
            sizes.append(full if gate is None else gate.chance().double().sum().cpu())
        return self._spent(torch.stack(sizes))

    def target(self) -> float:
        """The share of the cost that should be left now."""
        share = min(1.0, self.steps / self.warmup) if self.warmup else 1.0
        return 1 - self.ratio * share

    def parameters(self) -> Iterable[nn.Parameter]:
        """Those of the model that is trained."""
        return self.coupled.model.parameters()

    def scalars(self) -> dict[str, float]:
        """The expected share of the cost that is left, and what should be."""
        return {"left": float(self.left().detach()), "target": self.target()}

    def loss(self) -> torch.Tensor:
        """m·(c - t) + r/2·(c - t)², for those who add it to the loss themselves."""
        over = self.left() - self.target()
        return self._multiplier * over + PRESSURE / 2 * over * over

    def before(self) -> None:
        """Add the constraint's gradient to that of the loss, and take it from the optimizer."""
        own = self._alphas()
        with torch.enable_grad():
            value = self.loss()
        found = torch.autograd.grad(value, own)
        self._taken = [g if p.grad is None else g + p.grad for p, g in zip(own, found, strict=True)]
        for parameter in own:
            parameter.grad = None
        over = float(self.left().detach()) - self.target()
        self._multiplier = max(0.0, self._multiplier + DUAL_RATE * over)

    def after(self) -> None:
        """A step of the gates' own Adam."""
        own = self._alphas()
        for parameter, gradient in zip(own, self._taken, strict=True):
            parameter.grad = gradient
        self._adam.step()
        for parameter in own:
            parameter.grad = None

    @torch.no_grad()
    def open(self) -> dict[str, torch.Tensor]:
        """For each gated group by name, the chance that each index is open."""
        groups = self.coupled.groups
        return {groups[n].name: gate.chance().cpu() for n, gate in self._gates.items()}

    def remove(self) -> None:
        """Take the gates out of the model; its weights are multiplied by what the gates are."""
        root = self.coupled.model
        modes = {module: module.training for module in root.modules()}
        self.detach()
        strip(root)
        for module in root.modules():
            module.training = modes[module]

    def plan(self, ratio: float | None = None, **options: Any) -> Plan[Any]:
        """What the gates say should go, for a copy of the model without gates.

        Args:
            ratio: Fraction of the cost to remove; that of the gates where not given.
            **options: As for `graphprune.plan`.

        Returns:
            A plan whose `apply()` gives the smaller model.

        Raises:
            GraphPruneError: No gate has moved yet.
        """
        self._check_moved()
        source = copied(self.coupled.model)
        strip(source)
        scores = []
        for group in self.coupled.groups:
            gate = self._gates.get(group.id)
            # What has no gate stays: as open as can be.
            score = torch.full((group.size,), 1.0) if gate is None else gate.chance().detach()
            scores.append([score.double().cpu().numpy()])
        free = [self.coupled.groups[n].name for n in self._gates]
        locked = [g.first.rpartition("[")[0] for g in self.coupled.groups if g.name not in free]
        inputs, keep = self._given
        given: dict[str, Any] = {
            "example_inputs": inputs, "keep": keep, "importance": lambda context: scores,
            "allocation": "global", "normalize": "none", **options,
        }  # fmt: skip
        if locked:
            given["limits"] = {**dict.fromkeys(locked, 1.0), **(given.get("limits") or {})}
        found: Plan[Any] = plan(source, self.ratio if ratio is None else ratio, self._spent.of,
                                **given)  # fmt: skip
        return found

    @torch.no_grad()
    def _check_moved(self) -> None:
        """Refuse gates that are as they were made; warn of those that are still on their way."""
        if all(bool((alpha == OPEN).all()) for alpha in self._alphas()):
            raise GraphPruneError(
                "no gate has moved, so that they do not tell what may go: .attach(optimizer) and "
                "train first (graphprune.plan needs no training)"
            )
        left = float(self.left())
        if left > 1 - self.ratio + FAR:
            _log.warning(
                "gates: %.0f %% of the cost is left as they stand, and the ratio asks for %.0f %%: "
                "what is hardly closed yet is removed too; train for longer, with a shorter warmup "
                "or a higher rate", 100 * left, 100 * (1 - self.ratio),
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Steps, multiplier, moments; the gates themselves are in the model's own state dict."""
        adam = copy.deepcopy(self._adam.state_dict())
        return {**super().state_dict(), "multiplier": self._multiplier, "adam": adam}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            GraphPruneError: It is the state of gates of another model.
        """
        super().load_state_dict(state)
        self._multiplier = float(state["multiplier"])
        try:
            self._adam.load_state_dict(copy.deepcopy(state["adam"]))
        except ValueError as error:
            raise GraphPruneError(
                f"this is the state of other gates: this model has {len(self._gates)} gated groups"
            ) from error

    def attach(self, optimizer: torch.optim.Optimizer) -> Self:
        """As every method; an Adam of their own updates the gates.

        Raises:
            GraphPruneError: The gates were removed.
        """
        if not any(isinstance(module, Gated) for module in self.coupled.model.modules()):
            raise GraphPruneError("these gates were removed from the model: make new ones")
        return super().attach(optimizer)


def _places(coupled: Coupled, mixed: bool) -> dict[int, list[Owned]]:
    """For each group that gets gates, what they multiply."""
    deps = coupled.deps
    readers, others, mixes = _readers(deps)
    out: dict[int, list[Owned]] = {}
    for group in coupled.groups:
        if group.axis in mixes and not mixed:
            continue
        held = coupled.owned(group)
        read = [owned for owned in held if (owned.name, owned.dim) in readers.get(group.id, ())]
        if read and group.axis not in others:
            out[group.id] = read
        else:
            out[group.id] = [owned for owned in held if owned not in read] or held
    return out


def _readers(deps: Dependencies) -> tuple[dict[int, set[tuple[str, int]]], set[Any], set[Any]]:
    """Which weights read each group, along which dimension; axes read otherwise, axes mixed."""
    ids = {group.axis: group.id for group in deps.groups}
    readers: dict[int, set[tuple[str, int]]] = {}
    others: set[Any] = set()
    mixes: set[Any] = set()
    for op in deps.source.ops:
        effect = deps.effects[op]
        mixes.update(axis for dim in effect.mixes for axis in atoms(dim))
        summed = {axis for dim in effect.contracts for axis in atoms(dim)} & ids.keys()
        if not summed:
            continue
        found = reading(op)
        for axis in summed:
            if found is None or isinstance(found, str) or found.weight.kind != "parameter":
                others.add(axis)
            elif axis in atoms(deps.dims[found.weight][found.inner]):
                for name in (found.weight.name, *found.weight.aliases):
                    readers.setdefault(ids[axis], set()).add((name, found.inner))
            else:
                others.add(axis)
    return readers, others, mixes
