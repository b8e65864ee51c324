"""What runs the operations of a captured graph: handed in by the frontend that captured it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeAlias

import torch

from graphprune.core.effect import SHARE
from graphprune.core.errors import GraphPruneError
from graphprune.core.graph import Evaluator, Op

Evaluate: TypeAlias = (
    "Callable[[Op, Sequence[torch.Tensor | None], Mapping[str, Any], torch.dtype | None], "
    "list[torch.Tensor]]"
)
"""Runs one operation: `(op, operands, changed attributes, dtype) -> results`."""


def sharing(evaluate: Evaluate) -> Evaluate:
    """Let means over fewer divide by as many as before, which no operation has an attribute for."""

    @wraps(evaluate)
    def run(
        op: Op,
        operands: Sequence[torch.Tensor | None],
        changed: Mapping[str, Any],
        dtype: torch.dtype | None = None,
    ) -> list[torch.Tensor]:
        share = changed.get(SHARE)
        if share is None:
            return evaluate(op, operands, changed, dtype)
        rest = {name: value for name, value in changed.items() if name != SHARE}
        return [found * share for found in evaluate(op, operands, rest, dtype)]

    return run


def _never(op: Op) -> bool:
    return False


def _nothing(op: Op) -> str:
    return ""


@dataclass(frozen=True)
class Engine:
    """What runs the operations of a graph; every captured graph carries one.

    Attributes:
        evaluate: Runs one operation: `(op, operands, changed attributes, dtype) -> results`. Where
            `dtype` is None each number keeps the type it is stored in.
        dtype: Floating-point type in which proofs are computed.
        tolerance: Largest relative difference that rounding may cause in that type.
        coarse: Whether the type is so coarse that rounding must not add up from operation to
            operation: the survivors' values are then taken over after each, and large ones
            (without trained normalisations, numbers grow) are scaled down in both runs.
        exact: A finer type, in which an operation that seems to differ is run once more: kernels
            approximate, and those of bytes overflow. Only what differs there too is refused.
        differentiable: Whether gradients pass through `evaluate`.
        native: Floating-point type in which data are shown to who observes; None where each value
            keeps the type it is stored in.
        random: Whether an operation may give other results each time, for those that no rule calls
            random. Attention with a dropout of zero does not: only a second run can tell.
        writes: Whether an operation writes its result to where its first operand was, as `relu_` of
            PyTorch does: who holds the operand then holds the result.
        lacks: Why an operation cannot be run at all, or nothing. A proof takes its results for
            granted, and goes on behind it.
    """

    evaluate: Evaluate
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-9
    coarse: bool = False
    exact: torch.dtype | None = None
    differentiable: bool = False
    native: torch.dtype | None = None
    random: Callable[[Op], bool] = _never
    writes: Callable[[Op], bool] = _never
    lacks: Callable[[Op], str] = _nothing


def tried(
    engine: Evaluator, op: Op, operands: Sequence[torch.Tensor | None], dtype: torch.dtype
) -> list[torch.Tensor] | None:
    """What an operation makes of given numbers; None where nothing here runs it on them.

    Of the operations of some domains and of old releases there are no kernels in double precision.

    Args:
        engine: What runs the operations of its graph.
        op: The operation.
        operands: Its operands.
        dtype: Floating-point type to compute in.
    """
    try:
        return engine.evaluate(op, operands, {}, dtype)
    except (RuntimeError, GraphPruneError):
        return None
