"""Meeting a latency: choose by the table, measure the result, correct the aim, choose again.

A table of single operations leaves out what they do to each other's caches; the whole model is
what is asked for, so it has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.axes import Axis, leaves
from graphprune.errors import BudgetError
from graphprune.frontends.torch import Inputs
from graphprune.importance import Scores
from graphprune.latency.backends import Backend, backend, forward_seconds
from graphprune.latency.cost import Latency
from graphprune.request import Request

if TYPE_CHECKING:
    from graphprune.session import Session

_ROUNDS = 5
_NEAR = 0.015  # what measurements of the same model differ by


def meet(
    session: Session,
    request: Request,
    scores: Sequence[Scores],
    given: Inputs | None = None,
) -> None:
    """Choose the indices that stay so that the measured forward pass becomes as fast as asked.

    Args:
        session: The captured model; it takes the choice and the times.
        request: What is asked for, `"latency"` among it.
        scores: One score for each index of each group.
        given: The caller's inputs; where there are none, one sample of those that were found.

    Raises:
        BudgetError: The ratio cannot be reached.
        GraphPruneError: The backend cannot run the model.
    """
    model = session.runnable(smaller=False)
    runs_in = backend(request.backend, not isinstance(model, nn.Module))
    inputs = session.example(given) if given else _sample(runs_in, model, session.example())
    cost = Latency(session.deps, backend=runs_in, sizes=batch_sizes(session, inputs))
    cost.fit(forward_seconds([model], inputs, runs_in)[0])
    request.costs["latency"] = cost
    asked = aim = request.asked()["latency"]
    best: tuple[float, tuple[Any, ...]] | None = None
    for number in range(1, _ROUNDS + 1):
        try:
            session.decide(_aimed(request, aim), scores)
        except BudgetError:
            if best is None:
                raise
            break
        before, after = forward_seconds([model, session.runnable(True)], inputs, runs_in)
        reached = 1 - after / before
        predicted = cost(session.full_counts()) / cost(session.kept_counts())
        selection = replace(session.selection, of="latency", asked=asked, achieved=reached)
        state = (selection, session.cuts, session.found, session.fit, (before, after), predicted)
        if best is None or _better(reached, best[0], asked):
            best = (reached, state)
        if -_NEAR <= reached - asked <= number * _NEAR:  # too fast, rather than measured for ever
            break
        aim = min(max(1 - (1 - aim) * (1 - asked) / (1 - reached), 0.0), 0.99)
    assert best is not None
    session.selection, session.cuts, session.found, session.fit = best[1][:4]
    session.latency, session.predicted = best[1][4:]


def _sample(runs_in: Backend, model: Any, whole: Inputs) -> Inputs:
    """One sample of the captured inputs, or all of them where the model needs them."""
    first: Inputs = pytree.tree_map_only(torch.Tensor, lambda x: x[:1] if x.dim() else x, whole)
    try:
        with torch.no_grad(), runs_in.running(model, first) as call:
            call()
    except Exception:  # the first dimension is not a batch
        return whole
    return first


def batch_sizes(session: Session, inputs: Inputs) -> dict[Axis, int]:
    """The axes of the graph's inputs that are longer than the inputs given: the batch."""
    tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor)]
    out: dict[Axis, int] = {}
    for value, tensor in zip(session.deps.source.inputs, tensors, strict=False):
        if value.shape[:1] == tensor.shape[:1] or value.shape[1:] != tensor.shape[1:]:
            continue
        factors = leaves(session.deps.dims[value][0])
        if len(factors) == 1 and factors[0].parts is None:
            out[factors[0]] = tensor.shape[0]
    return out


def _better(reached: float, than: float, asked: float) -> bool:
    """Whether a measured ratio is nearer to what was asked; too little counts as worse."""
    enough = reached >= asked - _NEAR, than >= asked - _NEAR
    if enough[0] != enough[1]:
        return enough[0]
    return abs(reached - asked) < abs(than - asked)


def _aimed(request: Request, aim: float) -> Request:
    """The request with another fraction of the predicted time to remove."""
    if not request.budget:
        return replace(request, ratio=aim)
    budget: Mapping[str, float] = {**request.budget, "latency": aim}
    return replace(request, budget=budget)
