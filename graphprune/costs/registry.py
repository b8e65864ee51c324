"""The costs by name, and the door for others.

A cost is a function of how many indices each group keeps. Counted costs follow from the analysis
in closed form; `"latency"` is measured, and made where it is asked for.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import TypeAlias, TypeVar

from graphprune.core.errors import GraphPruneError, OptionError, named_line, nearest
from graphprune.core.groups import Dependencies
from graphprune.costs.counted import Cost, channels, macs, params
from graphprune.costs.memory import PeakMemory

Counting: TypeAlias = Callable[[Dependencies], Cost]
"""Makes the cost of an analysed model."""

F = TypeVar("F", bound=Counting)

MEASURED = "latency"
"""The cost that is measured rather than counted."""

_COSTS: dict[str, Counting] = {
    "params": params,
    "macs": macs,
    "channels": channels,
    "memory": PeakMemory,
}


def cost(name: str) -> Callable[[F], F]:
    """Register a cost under a name, for `of=`, `budget=` and the command line.

    The decorated function takes the analysis and returns the cost: a `Polynomial`, or any function
    of the groups' counts with a method `change(counts, group, to)`.

    Args:
        name: The name.

    Raises:
        OptionError: A cost has this name already, or the function takes other arguments.

    Example::

        @graphprune.cost("energy")
        def energy(deps):
            return 4.6e-12 * graphprune.costs.macs(deps)  # joules, 4.6 pJ each
    """

    def register(function: F) -> F:
        if name in _COSTS or name == MEASURED:
            raise OptionError(f"there is a cost {name!r} already")
        if not callable(function) or _arguments(function) != 1:
            raise OptionError(f"cost {name!r} is a function of one argument, the analysis")
        _COSTS[name] = function
        return function

    return register


def _arguments(function: Counting) -> int:
    """How many arguments a function must be given."""
    empty = inspect.Parameter.empty
    parameters = inspect.signature(function).parameters.values()
    return sum(p.default is empty and p.kind < p.KEYWORD_ONLY for p in parameters)


def known_costs() -> list[str]:
    """The names of all costs."""
    return [*_COSTS, MEASURED]


def cost_name(cost: object) -> str:
    """The name of a cost.

    Args:
        cost: The name, or the function that was registered for it.

    Raises:
        OptionError: There is no such cost; names the nearest one.
    """
    if isinstance(cost, str) and cost in known_costs():
        return cost
    if callable(cost):
        for name, function in _COSTS.items():
            if function is cost:
                return name
        called = getattr(cost, "__name__", type(cost).__name__)
        raise OptionError(
            f"{called} is no registered cost: put @graphprune.cost({called!r}) above it"
        )
    raise OptionError(f"no cost {cost!r}: {nearest(cost, known_costs())}")


def cost_of(deps: Dependencies, name: str) -> Cost:
    """A counted cost of an analysed model.

    Args:
        deps: The analysis.
        name: `"params"`, `"macs"`, `"channels"`, `"memory"`, or a name registered by `cost`.

    Raises:
        OptionError: There is no such cost, or it is measured, or a registered function returned
            what is none.
    """
    name = cost_name(name)
    if name == MEASURED:
        raise OptionError(f"cost {name!r} is measured: it has no closed form")
    try:
        found = _COSTS[name](deps)
        full = found(deps.sizes()) if callable(found) else None
    except GraphPruneError:
        raise
    except Exception as error:  # the user's own function
        raise OptionError(f"cost {name!r} failed: {named_line(error)}") from error
    if not (callable(found) and hasattr(found, "change")):
        raise OptionError(
            f"cost {name!r} returned {type(found).__name__}: a function of counts with a method "
            "change(counts, group, to) is needed, such as Polynomial"
        )
    if not isinstance(full, Real) or not 0 <= full < math.inf:
        raise OptionError(
            f"cost {name!r} of the whole model is {full}: it must be a number of at least 0"
        )
    return found
