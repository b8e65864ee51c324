"""Remove channels step by step while a network trains; the optimizer's state is cut along."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from torch import nn
from torch.optim.swa_utils import AveragedModel

from graphprune.api import plan
from graphprune.choice.constants import RATIO_TOLERANCE
from graphprune.core.errors import BudgetError, GraphPruneError, OptionError
from graphprune.costs.registry import Counting, cost_name
from graphprune.frontends.torch.inputs import as_inputs
from graphprune.loading import plan_of
from graphprune.models import given_data
from graphprune.plans import Plan
from graphprune.statistics.batches import read_batches
from graphprune.training.attached import Attached, bare
from graphprune.training.carry import become, carry
from graphprune.training.schedule import Schedule


class Gradual(Attached):
    """Remove channels physically while the network trains.

    At each step that the schedule names, the least useful channels go: the model object becomes
    the smaller network (it stays the same object), and the optimizer's state loses the same
    slices. Training goes on as if the channels had been masked (test: step for step, in float64).
    With `data`, each removal is compensated: the weights that stay take over what goes, from
    statistics of the network as it is then.

    Args:
        model: The model that is trained; changed in place.
        schedule: When, and how much.
        of: The cost that the schedule speaks of.
        example_inputs: As for `graphprune.shrink`.
        also: Further modules of the same class and widths that lose the same channels: averages of
            the weights (`torch.optim.swa_utils.AveragedModel`, which is looked through).
        data: As for `graphprune.shrink`, read once. With it `compensate` is on and `importance`
            `"auto"` where not given; without it, `compensate` is off and `importance` is
            `"group_norm"`, and training alone makes up for what goes.
        **options: As for `graphprune.plan`.

    Attributes:
        plans: What was removed so far, step by step.
        removed: The fraction of the original cost that is gone.

    Raises:
        OptionError: A value is none that could be meant, or the model is wrapped in
            `DistributedDataParallel`, which holds on to its parameters.

    Example::

        schedule = Schedule(initial=0.3, final=0.8, begin=100, end=1000, every=100)
        gradual = Gradual(model, schedule, example_inputs=x).attach(optimizer)
        ...                                     # train as ever
    """

    kind: ClassVar[str] = "gradual"

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        of: str | Counting = "params",
        *,
        example_inputs: Any = None,
        also: nn.Module | Sequence[nn.Module] = (),
        data: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if isinstance(model, nn.parallel.DistributedDataParallel):
            raise OptionError(
                "DistributedDataParallel holds on to the parameters it was made with: use "
                "SparseTraining, Gates or GroupLasso with it, or prune the module that it holds "
                "between two wrappings"
            )
        if not isinstance(schedule, Schedule):
            raise OptionError(f"schedule is a graphprune.training.Schedule, not {schedule!r}")
        self.model = bare(model)
        self.schedule = schedule
        averages = [also] if isinstance(also, nn.Module) else list(also)
        self.also = [bare(m.module if isinstance(m, AveragedModel) else m) for m in averages]
        self.of = cost_name(of)
        self.plans: list[dict[str, Any]] = []
        self.removed = 0.0
        self._options: dict[str, Any] = {
            "compensate": data is not None, "example_inputs": example_inputs,
            "importance": "group_norm" if data is None else "auto", **options,
        }  # fmt: skip
        if data is not None:
            given = given_data(data, self.model, as_inputs(example_inputs))
            self._options["data"] = read_batches(given, self.model)

    def after(self) -> None:
        """Remove channels where the schedule says so."""
        if self.schedule.due(self.steps):
            self.remove(self.schedule.at(self.steps))

    def parameters(self) -> Iterable[nn.Parameter]:
        """Those of the model that is trained."""
        return self.model.parameters()

    def scalars(self) -> dict[str, float]:
        """The fraction that is gone, and the parameters that are left."""
        left = sum(parameter.numel() for parameter in self.model.parameters())
        return {"removed": self.removed, "parameters": left}

    def remove(self, ratio: float) -> bool:
        """Remove channels until a fraction of the original cost is gone.

        Args:
            ratio: That fraction.

        Returns:
            Whether anything went.

        Raises:
            BudgetError: So much cannot go.
        """
        left = 1 - (1 - ratio) / (1 - self.removed)
        if left <= RATIO_TOLERANCE / 2:
            return False
        try:
            found: Plan[Any] = plan(self.model, left, self.of, **self._options)
        except BudgetError as error:
            if ratio < self.schedule.final:
                return False  # less than one channel's worth: the next step takes it along
            least = error.closest
            if least is None or least <= left:
                raise
            if least - left >= left:
                return False  # to stay is nearer than to go a channel further
            found = plan(self.model, least, self.of, **self._options)
        self._take(found)
        assert found.report is not None
        self.removed = 1 - (1 - self.removed) * (1 - found.report.achieved)
        return True

    def _take(self, found: Plan[Any]) -> None:
        """Let the model become what a plan makes of it."""
        training = {name: module.training for name, module in self.model.named_modules()}
        before = dict(self.model.named_parameters())
        others = [found.apply(module) for module in self.also]
        small = found.apply(self.model)
        kept = found.kept
        after = dict(small.named_parameters())
        if self._optimizer is not None:
            carry(self._optimizer, before, after, kept)
        for name, parameter in after.items():
            if name in before:
                parameter.requires_grad_(before[name].requires_grad)
        self.plans.append(found.as_dict())
        found.work = None  # the larger model may go
        for module, other in zip(self.also, others, strict=True):
            other.requires_grad_(any(p.requires_grad for p in module.parameters()))
            become(module, other)
        become(self.model, small)
        for name, module in self.model.named_modules():
            module.training = training.get(name, self.model.training)

    def state_dict(self) -> dict[str, Any]:
        """What was removed so far."""
        return {**super().state_dict(), "removed": self.removed, "plans": copy.deepcopy(self.plans)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: a fresh model of full size becomes the smaller one first.

        Call it before the model's and the optimizer's own `load_state_dict`.

        Raises:
            GraphPruneError: This object removed something already, or the model is another.
        """
        if self.plans:
            raise GraphPruneError("load a state into a fresh Gradual, whose model is still whole")
        super().load_state_dict(state)
        for data in state["plans"]:
            self._take(plan_of({**data, "compensate": False}))  # the weights themselves follow
        self.removed = float(state["removed"])
