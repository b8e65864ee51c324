"""What the caller asks for: costs, fractions, and how they are spread; checked as it comes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graphprune.core.errors import GraphPruneError
from graphprune.costs.counted import Cost
from graphprune.costs.registry import check_cost

Limits = Mapping[str, "float | tuple[float, float]"]

BACKENDS = ("auto", "eager", "compiled", "onnxruntime")
"""What may run a model whose latency is measured."""

THRESHOLDS = ("mu-2sigma",)
"""Criteria that decide by themselves how much goes."""

_HALF = 0.5


@dataclass(frozen=True)
class Request:
    """What the caller asks for.

    Attributes:
        ratio: Fraction of the cost to remove; None where the criterion decides.
        of: The cost.
        allocation: How the budget is spread over the groups.
        ratios: Fractions of channels to remove from the groups of certain layers, by name
            pattern; the rest of the budget falls on the other groups.
        round_to: Kept counts become multiples of this in groups at least four times as large;
            `"auto"` takes the largest of 8, 4, 2, 1 that still meets the budget.
        budget: Several costs with the fraction of each to remove at least, in place of `of`.
        limits: By name pattern the least, or the least and the most, that a group keeps.
        normalize: What makes the scores of different groups comparable.
        backend: What runs the model where latency is asked for, a name in `BACKENDS`.
        costs: Costs that are measured, by name; the others follow from the analysis.
    """

    ratio: float | None = _HALF
    of: str = "params"
    allocation: str = "auto"
    ratios: Mapping[str, float] = field(default_factory=dict)
    round_to: int | str = "auto"
    budget: Mapping[str, float] = field(default_factory=dict)
    limits: Limits = field(default_factory=dict)
    normalize: str = "mean"
    backend: str = "auto"
    costs: dict[str, Cost] = field(default_factory=dict)

    def located(self, ratios: Mapping[str, float], limits: Limits) -> Request:
        """The same request, its layers named by patterns."""
        return replace(self, ratios=ratios, limits=limits)

    def nontrivial(self) -> bool:
        """Whether something is asked for: not a ratio of none, not what a criterion says."""
        return any(self.asked().values())

    def asked(self) -> Mapping[str, float]:
        """The fraction of each cost to remove; empty where the criterion decides."""
        return self.budget or ({} if self.ratio is None else {self.of: self.ratio})


def requested(
    ratio: float | None,
    of: str,
    importance: Any,
    round_to: int | str,
    budget: Mapping[str, float] | None,
    **options: Any,
) -> Request:
    """A checked request.

    Args:
        ratio: Fraction to remove, or None: a half, or what the budget or the criterion says.
        of: The cost.
        importance: The criterion.
        round_to: As in `Request`.
        budget: As in `Request`.
        **options: The other attributes of `Request`; None for their defaults.

    Raises:
        GraphPruneError: A number or a name is none that could be meant.
    """
    decides = isinstance(importance, str) and importance in THRESHOLDS
    if ratio is not None and (decides or budget):
        what = f"importance={importance!r} decides" if decides else "budget tells"
        raise GraphPruneError(f"{what} how much goes: leave out ratio, which is {ratio!r}")
    if budget and decides:
        raise GraphPruneError(f"importance={importance!r} decides how much goes: leave out budget")
    if ratio is None and not decides and not budget:
        ratio = _HALF
    for name, fraction in (budget or {} if ratio is None else {of: ratio}).items():
        _check_fraction(name, fraction, "ratio" if ratio is not None else f"budget[{name!r}]")
    check_cost(of)
    if round_to != "auto" and (not isinstance(round_to, int) or round_to < 1):
        raise GraphPruneError(f"round_to is a positive integer or 'auto', not {round_to!r}")
    if options.get("backend", "auto") not in BACKENDS:
        raise GraphPruneError(
            f"no backend {options['backend']!r}: choose from {', '.join(BACKENDS)}"
        )
    given = {name: value for name, value in options.items() if value is not None}
    return Request(ratio, of, round_to=round_to, budget=budget or {}, **given)


def _check_fraction(cost: str, fraction: Any, name: str) -> None:
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction < 1:
        raise GraphPruneError(f"{name} is the fraction to remove, 0 <= ratio < 1, not {fraction!r}")
    check_cost(cost)
