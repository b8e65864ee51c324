"""Meeting a latency: choose by the table, measure the result, correct the aim, choose again.

A table of single operations leaves out what they do to each other's caches; the whole model is
what is asked for, so it has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from graphprune.errors import BudgetError
from graphprune.importance import Scores
from graphprune.latency.cost import Latency
from graphprune.latency.timing import forward_seconds
from graphprune.request import Request

if TYPE_CHECKING:
    from graphprune.session import Session

_ROUNDS = 4
_NEAR = 0.015  # what measurements of the same model differ by


def meet(session: Session, request: Request, scores: Sequence[Scores]) -> None:
    """Choose the indices that stay so that the measured forward pass becomes as fast as asked.

    Args:
        session: The captured model; it takes the choice and the times.
        request: What is asked for, `"latency"` among it.
        scores: One score for each index of each group.

    Raises:
        BudgetError: The ratio cannot be reached.
    """
    cost = request.costs["latency"] = Latency(session.deps)
    asked = aim = request.asked()["latency"]
    best: tuple[float, tuple[object, ...]] | None = None
    for _ in range(_ROUNDS):
        try:
            session.decide(_aimed(request, aim), scores)
        except BudgetError:
            if best is None:
                raise
            break
        small = session.lowered(verify=False, seed=0)[0].model
        before, after = forward_seconds([session.program.model, small], session.program.inputs)
        reached = 1 - after / before
        kept = session.kept_counts()
        predicted = cost(session.full_counts()) / cost(kept)
        selection = replace(session.selection, of="latency", asked=asked, achieved=reached)
        state = (selection, session.cuts, session.found, (before, after), predicted)
        if best is None or _better(reached, best[0], asked):
            best = (reached, state)
        if abs(reached - asked) <= _NEAR:
            break
        aim = min(max(1 - (1 - aim) * (1 - asked) / (1 - reached), 0.0), 0.99)
    assert best is not None
    session.selection, session.cuts, session.found, session.latency, session.predicted = best[1]  # type: ignore[assignment]


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
