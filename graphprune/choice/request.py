"""What the caller asks for: costs, fractions, and how they are spread; checked as it comes in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from graphprune.core.errors import OptionError, nearest
from graphprune.costs.counted import Cost
from graphprune.costs.registry import Counting, cost_name
from graphprune.importance.reduce import NORMALIZATIONS

Limits = Mapping[Any, "float | tuple[float, float]"]

Patterns: TypeAlias = "str | tuple[str, ...]"
"""A name pattern, or several that stand for one thing: all modules of a type."""

ALLOCATIONS = ("auto", "uniform", "global", "isomorphic", "erk")
"""How a budget is spread over the groups."""

BACKENDS = ("auto", "eager", "compiled", "onnxruntime")
"""What may run a model whose latency is measured."""

THRESHOLDS = ("mu-2sigma",)
"""Criteria that decide by themselves how much goes."""

_HALF = 0.5
_NUMBERS = (int, float, np.integer, np.floating)
_WHOLE = (int, np.integer)


@dataclass(frozen=True)
class Request:
    """What the caller asks for.

    Attributes:
        ratio: Fraction of the cost to remove; None where something else decides: the criterion,
            the budget, or `ratios` alone.
        of: The cost.
        allocation: How the budget is spread over the groups.
        ratios: Fractions of channels to remove from the groups of certain layers, by name
            pattern; the rest of the budget falls on the other groups. Without a budget, the other
            groups stay whole.
        round_to: Every kept count is a multiple of this, or the group stays whole. `"auto"` takes
            the largest of 8, 4, 2, 1 that still meets the budget, for groups at least four times
            as large.
        budget: Several costs with the fraction of each to remove at least, in place of `of`.
        limits: By name pattern the least, or the least and the most, that a group keeps.
        normalize: What makes the scores of different groups comparable.
        backend: What runs the model where latency is asked for, a name in `BACKENDS`.
        costs: Costs that are measured, by name; the others follow from the analysis.
        whole: Sizes of groups by name that the fractions in `ratios` and `limits` speak of, where
            the model has been made smaller before; else they speak of the groups' own.
        threshold: Whether the criterion decides by itself how much goes.
    """

    ratio: float | None = _HALF
    of: str = "params"
    allocation: str = "auto"
    ratios: Mapping[Patterns, float] = field(default_factory=dict)
    round_to: int | str = "auto"
    budget: Mapping[str, float] = field(default_factory=dict)
    limits: Limits = field(default_factory=dict)
    normalize: str = "mean"
    backend: str = "auto"
    costs: dict[str, Cost] = field(default_factory=dict)
    whole: Mapping[str, int] = field(default_factory=dict)
    threshold: bool = False

    def located(self, ratios: Mapping[Patterns, float], limits: Limits) -> Request:
        """The same request, its layers named by patterns."""
        return replace(self, ratios=ratios, limits=limits)

    def nontrivial(self) -> bool:
        """Whether anything is to go at all, so that scores matter."""
        return any(self.asked().values()) or any(self.ratios.values())

    def asked(self) -> Mapping[str, float]:
        """The fraction of each cost to remove; empty where something else decides."""
        return self.budget or ({} if self.ratio is None else {self.of: self.ratio})

    def step(self) -> int | None:
        """What every kept count must be a multiple of; None where that is free."""
        return None if self.round_to == "auto" else int(self.round_to)


def requested(
    ratio: float | None,
    of: str | Counting,
    importance: Any,
    round_to: int | str,
    budget: Mapping[Any, float] | None,
    **options: Any,
) -> Request:
    """A checked request.

    Args:
        ratio: Fraction to remove, or None: what the budget, `ratios` or the criterion say, else a
            half.
        of: The cost: its name, or the function that was registered for it.
        importance: The criterion.
        round_to: As in `Request`.
        budget: As in `Request`; costs may be functions, too.
        **options: The other attributes of `Request`; None for their defaults.

    Raises:
        OptionError: A number or a name is none that could be meant.
    """
    of = cost_name(of)
    decides = isinstance(importance, str) and importance in THRESHOLDS
    _check_mapping("limits", options.get("limits"))
    check_ratios(options.get("ratios"))
    _check_mapping("budget", budget)
    if ratio is not None and (decides or budget):
        what = f"importance={importance!r} decides" if decides else "budget tells"
        raise OptionError(f"{what} how much goes: leave out ratio, which is {ratio!r}")
    if budget and decides:
        raise OptionError(f"importance={importance!r} decides how much goes: leave out budget")
    if ratio is not None:
        _check_fraction(ratio, "ratio")
    elif not decides and not budget and not options.get("ratios"):
        ratio = _HALF
    budget = {cost_name(name): fraction for name, fraction in (budget or {}).items()}
    for name, fraction in budget.items():
        _check_fraction(fraction, f"budget[{name!r}]")
    for item, limit in (options.get("limits") or {}).items():
        _check_limit(item, limit)
    whole = isinstance(round_to, int) and not isinstance(round_to, bool) and round_to >= 1
    if not whole and not (isinstance(round_to, str) and round_to == "auto"):
        raise OptionError(f"round_to is a positive integer or 'auto', not {round_to!r}")
    given = {name: value for name, value in options.items() if value is not None}
    _check_name("backend", given.get("backend", "auto"), BACKENDS)
    _check_name("allocation", given.get("allocation", "auto"), ALLOCATIONS)
    _check_name("normalisation", given.get("normalize", "mean"), tuple(NORMALIZATIONS))
    return Request(ratio, of, round_to=round_to, budget=budget, threshold=decides, **given)


def _check_name(what: str, name: Any, names: Sequence[str]) -> None:
    if not isinstance(name, str) or name not in names:
        raise OptionError(f"no {what} {name!r}: {nearest(name, names)}")


def _check_mapping(name: str, given: Any) -> None:
    if given is not None and not isinstance(given, Mapping):
        what = "a cost" if name == "budget" else "a layer"
        raise OptionError(f"{name} is a dict, a number for {what}, not {given!r}")


def check_ratios(ratios: Any) -> None:
    """Refuse what `ratios` cannot be.

    Raises:
        OptionError: It is no mapping of layers to fractions.
    """
    _check_mapping("ratios", ratios)
    for item, fraction in (ratios or {}).items():
        _check_fraction(fraction, f"ratios: {_shown(item)}")


def _check_fraction(fraction: Any, name: str) -> None:
    if isinstance(fraction, bool) or not isinstance(fraction, _NUMBERS) or not 0 <= fraction < 1:
        if name.startswith("ratios"):
            raise OptionError(f"{name} is {fraction!r}, outside [0, 1): the fraction to remove")
        number = isinstance(fraction, _NUMBERS) and not isinstance(fraction, bool)
        hint = f"; {fraction:g} % is {fraction / 100:g}" if number and 1 < fraction < 100 else ""
        raise OptionError(
            f"{name} is the fraction to remove, 0 <= ratio < 1, not {fraction!r}{hint}"
        )


def _check_limit(item: Any, limit: Any) -> None:
    """Refuse limits that are neither a least nor a least and a most."""
    if isinstance(limit, tuple | list) and len(limit) != 2:
        raise OptionError(
            f"limits: {_shown(item)} is {limit!r}: a least, or a pair of a least and a most"
        )
    for bound in limit if isinstance(limit, tuple | list) else (limit,):
        if isinstance(bound, bool) or not isinstance(bound, _NUMBERS) or not 0 <= bound < math.inf:
            raise OptionError(
                f"limits: {_shown(item)} is {bound!r}, no number of indices or fraction"
            )
        if not isinstance(bound, _WHOLE) and bound > 1:
            raise OptionError(f"limits: {_shown(item)} is {bound}: a fraction is at most 1.0")


def _shown(item: Any) -> str:
    """A layer as the caller named it, in a line."""
    if isinstance(item, str | tuple):
        return repr(item)
    return str(getattr(item, "__name__", type(item).__name__))
