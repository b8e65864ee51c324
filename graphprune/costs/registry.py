"""The costs by name, and the door for others.

A cost is a function of how many indices each group keeps. Counted costs follow from the analysis
in closed form; `"latency"` is measured, and made where it is asked for.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from graphprune.core.errors import OptionError
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
        if not callable(function) or len(inspect.signature(function).parameters) != 1:
            raise OptionError(f"cost {name!r} is a function of one argument, the analysis")
        _COSTS[name] = function
        return function

    return register


def known_costs() -> list[str]:
    """The names of all costs."""
    return [*_COSTS, MEASURED]


def check_cost(name: object) -> None:
    """Refuse what is no name of a cost.

    Raises:
        OptionError: There is no such cost; names the nearest one.
    """
    names = known_costs()
    if name not in names:
        close = difflib.get_close_matches(str(name), names, 1, 0.6)
        hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(names)}"
        own = "; register a function with @graphprune.cost(name)" if callable(name) else ""
        raise OptionError(f"no cost {name!r}: {hint}{own}")


def cost_of(deps: Dependencies, name: str) -> Cost:
    """A counted cost of an analysed model.

    Args:
        deps: The analysis.
        name: `"params"`, `"macs"`, `"channels"`, `"memory"`, or a name registered by `cost`.

    Raises:
        OptionError: There is no such cost, or it is measured, or a registered function returned
            what is none.
    """
    check_cost(name)
    if name == MEASURED:
        raise OptionError(f"cost {name!r} is measured: it has no closed form")
    found = _COSTS[name](deps)
    if not (callable(found) and hasattr(found, "change")):
        raise OptionError(
            f"cost {name!r} returned {type(found).__name__}: a function of counts with a method "
            "change(counts, group, to) is needed, such as Polynomial"
        )
    full = found(deps.sizes())
    if not full >= 0:
        raise OptionError(f"cost {name!r} of the whole model is {full}: it must be at least 0")
    return found
