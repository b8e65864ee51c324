"""aim: choose by the latency table, time the whole model, correct the target, choose again.

The table adds up the times of single operations. It misses what they do to each other's caches, so
the time of the whole model decides. Example: asked for 30 % less, the table's choice measures 24 %
less; the next choice aims at 1 - (1 - 0.30)·(1 - 0.30)/(1 - 0.24) = 36 % by the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from graphprune.choice.choose import Choice, Chooser
from graphprune.choice.constants import AIM_ROUNDS, MEASUREMENT_NOISE, TABLE_ATTEMPTS
from graphprune.choice.request import Request
from graphprune.choice.select import select
from graphprune.core.axes import Axis, leaves
from graphprune.core.cuts import narrow
from graphprune.core.errors import BudgetError, GraphPruneError
from graphprune.core.groups import Dependencies
from graphprune.core.program import Inputs
from graphprune.costs.latency.backend import Backend, forward_seconds
from graphprune.costs.latency.cost import Latency
from graphprune.costs.latency.timing import Timer
from graphprune.costs.registry import cost_of
from graphprune.importance import Scores

_HALVINGS = 10  # bisection steps: the ratio of the choice by MACs is found to 0.001


@dataclass(frozen=True)
class Aimed:
    """A choice that was measured.

    Attributes:
        choice: The choice.
        reached: The fraction of the time that it removes.
        seconds: Of a forward pass before and after.
        predicted: The speed-up by the table.
    """

    choice: Choice
    reached: float
    seconds: tuple[float, float]
    predicted: float


@dataclass(frozen=True)
class _Clock:
    """Measures choices, each beside the original model."""

    chooser: Chooser
    original: Any
    table: Latency
    inputs: Inputs
    runs_in: Backend
    asked: float

    def measure(self, choice: Choice) -> Aimed:
        """Time the choice beside the original model."""
        models = [self.original, self.chooser.program.runnable(choice.expressed)]
        before, after = forward_seconds(models, self.inputs, self.runs_in)
        reached = 1 - after / before
        selection = replace(choice.selection, of="latency", asked=self.asked, achieved=reached)
        sizes, kept = self.chooser.deps.sizes(), self.chooser.deps.counts(selection.keep)
        predicted = self.table(sizes) / self.table(kept)
        return Aimed(replace(choice, selection=selection), reached, (before, after), predicted)


def meet(
    chooser: Chooser, request: Request, scores: Sequence[Scores], given: Inputs | None = None
) -> Aimed:
    """Choose the indices that stay so that the measured forward pass becomes as fast as asked.

    Args:
        chooser: Makes choices for the captured model.
        request: What is asked for, `"latency"` among it.
        scores: One score for each index of each group.
        given: The caller's inputs; where there are none, one sample of those that were found.

    Raises:
        BudgetError: The ratio cannot be reached.
        GraphPruneError: The backend cannot run the model, or the machine is too busy to tell.
    """
    program, deps = chooser.program, chooser.deps
    original = program.runnable(program.express(narrow(deps, {})))
    runs_in: Backend = program.backend(request.backend)
    inputs = program.example(given) if given else _sample(runs_in, original, program.example())
    sizes, timer = batch_sizes(deps, inputs), Timer()
    for _ in range(TABLE_ATTEMPTS):
        table = Latency(deps, runs_in, timer, sizes)
        table.fit(forward_seconds([original], inputs, runs_in)[0])
        request.costs["latency"] = table
        clock = _Clock(chooser, original, table, inputs, runs_in, request.asked()["latency"])
        try:
            best = _aim(clock, request, scores)
            break
        except BudgetError:
            if not timer.disturbed:
                raise
            count = len(timer.disturbed)
            timer.forget()
    else:
        raise GraphPruneError(
            f"the machine is too busy to measure latency: {count} operations took another time at "
            'each run. Try again when less runs beside this, or ask for of="macs"'
        )
    twin = _twin(chooser, request, scores, best) if len(request.asked()) == 1 else None
    if twin is not None:
        found = clock.measure(twin)
        best = found if found.reached > best.reached + MEASUREMENT_NOISE else best
    return best


def _aim(clock: _Clock, request: Request, scores: Sequence[Scores]) -> Aimed:
    """The best of a few timed choices; how far each one missed corrects the next target."""
    asked = aim = clock.asked
    best: Aimed | None = None
    for number in range(1, AIM_ROUNDS + 1):
        try:
            choice = clock.chooser.choose(_aimed(request, aim), scores)
        except BudgetError:
            if best is None:
                raise
            break
        if best is not None and not choice.selection.keep:
            break  # what was measured is noise
        found = clock.measure(choice)
        if best is None or _better(found.reached, best.reached, asked):
            best = found
        # Each round accepts a little more speed than asked, so that the search ends.
        if -MEASUREMENT_NOISE <= found.reached - asked <= number * MEASUREMENT_NOISE:
            break
        aim = min(max(1 - (1 - aim) * (1 - asked) / (1 - found.reached), 0.0), 0.99)
    assert best is not None
    return best


def _twin(
    chooser: Chooser, request: Request, scores: Sequence[Scores], found: Aimed
) -> Choice | None:
    """The choice by MACs that keeps as many parameters as a given one; None if nothing can go.

    A compiler fuses operations, which the table of single ones cannot show. MACs sometimes predict
    the time better; both choices are timed, and the faster one is taken.
    """
    deps = chooser.deps
    params = cost_of(deps, "params")
    left = params(deps.counts(found.choice.selection.keep))
    low, high = 0.0, 0.99
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        try:
            selection = select(deps, scores, _by_macs(request, middle))
            enough = params(deps.counts(selection.keep)) < left
        except BudgetError:
            enough = True
        low, high = (low, middle) if enough else (middle, high)
    try:
        choice = chooser.choose(_by_macs(request, low), scores)
    except BudgetError:
        return None
    return choice if choice.selection.keep else None


def _by_macs(request: Request, ratio: float) -> Request:
    return replace(request, of="macs", ratio=ratio, budget={})


def _sample(runs_in: Backend, model: Any, whole: Inputs) -> Inputs:
    """One sample of the captured inputs, or all of them where the model needs them."""
    first: Inputs = pytree.tree_map_only(torch.Tensor, lambda x: x[:1] if x.dim() else x, whole)
    try:
        with torch.no_grad(), runs_in.running(model, first) as call:
            call()
    except Exception:  # the first dimension is not a batch
        return whole
    return first


def batch_sizes(deps: Dependencies, inputs: Inputs) -> dict[Axis, int]:
    """The axes of the graph's inputs that are longer than the inputs given: the batch."""
    tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]
    out: dict[Axis, int] = {}
    for value, tensor in zip(deps.source.inputs, tensors, strict=False):
        if value.shape[:1] == tensor.shape[:1] or value.shape[1:] != tensor.shape[1:]:
            continue
        factors = leaves(deps.dims[value][0])
        if len(factors) == 1 and factors[0].parts is None:
            out[factors[0]] = tensor.shape[0]
    return out


def _better(reached: float, than: float, asked: float) -> bool:
    """Whether a measured ratio is nearer to what was asked; too little counts as worse."""
    enough = reached >= asked - MEASUREMENT_NOISE, than >= asked - MEASUREMENT_NOISE
    if enough[0] != enough[1]:
        return enough[0]
    return abs(reached - asked) < abs(than - asked)


def _aimed(request: Request, aim: float) -> Request:
    """The request with another fraction of the predicted time to remove."""
    if not request.budget:
        return replace(request, ratio=aim)
    budget: Mapping[str, float] = {**request.budget, "latency": aim}
    return replace(request, budget=budget)
