"""Functions that callers hand in: refused before the work, and told apart where they fail."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from graphprune.core.errors import GraphPruneError, OptionError, named_line

T = TypeVar("T")


def check_function(option: str, given: Any, *takes: str) -> None:
    """Refuse what cannot be called as it will be.

    Args:
        option: The option that names it.
        given: What the caller handed in; None, where there is nothing to check.
        takes: What it will be called with, in words.

    Raises:
        OptionError: It is no function, or takes other arguments.
    """
    if given is None:
        return
    if not callable(given):
        raise OptionError(f"{option} is a function ({', '.join(takes)}), not {given!r}")
    try:
        found = inspect.signature(given)
    except (TypeError, ValueError):  # of what is written in C nothing is known
        return
    try:
        found.bind(*takes)
    except TypeError as error:
        raise OptionError(
            f"{option} is called with ({', '.join(takes)}), and takes {found}"
        ) from error


def called(option: str, function: Callable[..., T], *args: Any) -> T:
    """What a caller's function returns.

    Args:
        option: What to call it in an error: the option, and what it is called with.
        function: The function.
        args: What it is called with.

    Raises:
        GraphPruneError: It fails; says so, with the error as its cause.
    """
    try:
        return function(*args)
    except Exception as error:
        raise GraphPruneError(f"{option} failed: {named_line(error)}") from error


def judged(option: str, function: Callable[..., Any], *args: Any) -> float:
    """The number that a caller's function returns; the arguments are those of `called`.

    Raises:
        GraphPruneError: It fails.
        OptionError: It returns no number.
    """
    found = called(option, function, *args)
    try:
        return float(found)
    except (TypeError, ValueError):
        raise OptionError(f"{option} returned {found!r}: a number is needed") from None
