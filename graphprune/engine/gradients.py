"""Gradients through operations of one's own that have none: by what their rules say they compute.

A custom operation without a backward stops every descent behind it. Where its rule reads it as
y = W x + b, the gradients of that product are its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from graphprune.core.graph import Op, Value
from graphprune.engine.engine import Evaluate
from graphprune.rules.facts import is_own
from graphprune.rules.readings import Reading, reading

_MATRIX = 2  # dimensions


def with_gradients(evaluate: Evaluate) -> Evaluate:
    """What runs operations, with gradients by the rule where an operation has none.

    The results are those of the operation itself: the product gives the gradients alone.

    Args:
        evaluate: What runs them, through which gradients pass otherwise.
    """
    passing: dict[Op, bool] = {}

    def run(
        op: Op,
        operands: Sequence[torch.Tensor | None],
        changed: Mapping[str, Any],
        dtype: torch.dtype | None = None,
    ) -> list[torch.Tensor]:
        results = evaluate(op, operands, changed, dtype)
        wanted = [x for x in operands if x is not None and x.requires_grad]
        if not (wanted and is_own(op) and torch.is_grad_enabled()) or len(results) != 1:
            return results
        if op not in passing:
            passing[op] = _passes(results[0], wanted)
        product = None if passing[op] else _product(op, operands)
        if product is None or product.shape != results[0].shape:
            return results
        return [product + (results[0].detach() - product.detach())]

    return run


def _passes(result: torch.Tensor, operands: Sequence[torch.Tensor]) -> bool:
    """Whether gradients of a result reach its operands."""
    try:
        found = torch.autograd.grad(
            result.sum(), list(operands), retain_graph=True, allow_unused=True
        )
    except (RuntimeError, NotImplementedError):
        return False
    return any(x is not None for x in found)


def _product(op: Op, operands: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """W x + b, where the rule of an operation reads it so and W is a matrix."""
    read = reading(op)
    if not isinstance(read, Reading) or not read.ends:
        return None

    def tensor(value: Value | None) -> torch.Tensor | None:
        return None if value is None else operands[op.inputs.index(value)]

    x, weight, bias = (tensor(value) for value in (read.source, read.weight, read.bias))
    if x is None or weight is None or weight.dim() != _MATRIX:
        return None
    matrix = weight if read.inner == 0 else weight.mT
    out = x.movedim(read.channel, -1) @ matrix
    return (out if bias is None else out + bias.flatten()).movedim(-1, read.output)
