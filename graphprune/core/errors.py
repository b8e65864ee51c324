"""What can go wrong, and what the message must name: the thing, and the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GraphPruneError(Exception):
    """Base class of every error that graphprune raises on purpose."""


class LiftError(GraphPruneError):
    """The model could not be captured as a graph."""


class AxisError(GraphPruneError):
    """A rule contradicts the shapes of its operation, or a name matches no axis."""


class OptionError(GraphPruneError, TypeError):
    """An option has no such name, or is not what could be meant."""


class PlanError(GraphPruneError):
    """A plan, or an edit in it, does not fit the model."""


class PassError(GraphPruneError):
    """A pass does not find what it needs, or does not leave what it promises."""


class EvaluationError(GraphPruneError, RuntimeError):
    """An operation cannot be evaluated: nothing runs it, or what should do so fails."""


class BudgetError(GraphPruneError):
    """The budget cannot be met.

    Attributes:
        closest: The reachable ratio nearest to the one asked for, or None where there is none.
    """

    def __init__(self, message: str, closest: float | None = None) -> None:
        super().__init__(message)
        self.closest = closest


class VerifyError(GraphPruneError):
    """The smaller model does not compute what it must.

    Attributes:
        layer: Name of the first operation or layer that differs.
        difference: Largest absolute difference found there, relative to the largest value.
    """

    def __init__(self, message: str, layer: str, difference: float) -> None:
        super().__init__(message)
        self.layer = layer
        self.difference = difference


def named_line(error: Exception) -> str:
    """The type of an error, and the first line of what it says."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def first_line(error: Exception) -> str:
    """What an error says, in a line; its type where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def nearest(name: object, names: Iterable[str]) -> str:
    """What to type instead of a name that is not known: the nearest of some names, or all."""
    known = list(names)
    close = difflib.get_close_matches(str(name), known, 1, 0.6)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}"
