"""The criteria by name, and the decorator that adds to them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import torch

from graphprune.core.errors import GraphPruneError, named_line
from graphprune.importance.context import Context, Parts, by_slice, checked

Criterion: TypeAlias = Callable[..., Any]
"""A criterion of one's own: `(weight, dim) -> scores`, one for each slice of a weight along a
dimension, which are summed over every slice that an index owns; or `(context) -> parts`."""

Named: TypeAlias = Callable[[Context], Parts]

F = TypeVar("F", bound=Criterion)

CRITERIA: dict[str, Named] = {}
"""The criteria by name."""

DECIDED = ("auto", "obs")  # names that are no criteria: the session answers them


def criterion(*names: str) -> Callable[[F], F]:
    """Register a criterion, for `importance="name"` in calls, plans and on the command line.

    Args:
        names: What it is called by.

    The decorated function takes a weight and a dimension and gives one score for each index of
    that dimension, summed over every slice that an index owns; or it takes a `Context` (groups,
    graph, module, batches) and gives for each group a list of contributions, each with one number
    for each index. The lowest scores go first.

    Raises:
        GraphPruneError: A name is taken, or the function takes other arguments.

    Example::

        @graphprune.criterion("spread")
        def spread(weight, dim):
            rows = weight.detach().movedim(dim, 0).reshape(weight.shape[dim], -1)
            return rows.var(1, correction=0)
    """

    def register(function: F) -> F:
        for name in names:
            if name in CRITERIA or name in DECIDED:
                raise GraphPruneError(f"there is an importance criterion {name!r} already")
            CRITERIA[name] = _adapted(function, name)
        return function

    return register


def find(importance: str | Criterion) -> Named:
    """The criterion that a name or a user's function means.

    Raises:
        GraphPruneError: No criterion has this name, or the function takes other arguments.
    """
    if isinstance(importance, str):
        if importance not in CRITERIA:
            names = ", ".join([*DECIDED, *CRITERIA])
            raise GraphPruneError(f"no importance criterion {importance!r}: choose from {names}")
        return CRITERIA[importance]
    if not callable(importance):
        raise GraphPruneError(f"importance is a name or a function, not {importance!r}")
    return _told(_adapted(importance, called(importance)), called(importance))


def _told(own: Named, name: str) -> Named:
    """A caller's criterion, whose faults are told by its name."""

    def call(context: Context) -> Parts:
        try:
            return own(context)
        except GraphPruneError:
            raise
        except Exception as error:
            raise GraphPruneError(
                f"importance criterion {name!r} fails: {named_line(error)}"
            ) from error

    return call


def called(importance: str | Criterion) -> str:
    """What messages call a criterion."""
    if isinstance(importance, str):
        return importance
    return str(getattr(importance, "__name__", type(importance).__name__))


def _adapted(own: Criterion, name: str) -> Named:
    """A criterion as a function of the context."""
    number = len(inspect.signature(own).parameters)
    if number == 1:
        return own
    if number != 2:
        raise GraphPruneError(
            f"importance criterion {name!r} takes {number} arguments: it must take (weight, dim), "
            "or a single graphprune.importance.Context"
        )

    def sums(tensor: torch.Tensor, dims: Sequence[int]) -> dict[int, Any]:
        return {dim: _scored(own, name, tensor, dim) for dim in dims}

    return lambda context: by_slice(context.deps, sums)


def _scored(own: Criterion, name: str, tensor: torch.Tensor, dim: int) -> Any:
    where = f"a weight of shape {list(tensor.shape)} along dimension {dim}"
    try:
        found = own(tensor, dim)
    except GraphPruneError:
        raise
    except Exception as error:  # whatever a user's function trips over
        raise GraphPruneError(
            f"importance criterion {name!r} fails on {where}: {named_line(error)}"
        ) from error
    return checked(where, tensor.shape[dim], found, name)
