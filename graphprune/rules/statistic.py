"""Means that are statistics: what a norm written by hand computes of its operand, to put it right.

A mean that code goes on with by itself is a linear sum over so many. A mean that meets its own
operand again, element by element (`x - x.mean(-1)`, `x / x.pow(2).mean(-1).sqrt()`), says how large
that operand is, and is taken anew of what stays, as built-in norms do. So is a mean of numbers that
are not zero where a channel is (`x.sigmoid().mean(1)`): there no factor makes removal what masking
is, and what stays stands for what goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from graphprune.core.axes import Axis, atoms
from graphprune.core.effect import Dims, Effect
from graphprune.core.errors import GraphPruneError
from graphprune.core.graph import Evaluator, Graph, Op, Value
from graphprune.rules.registry import stated

_TRIES = 2  # numbers drawn for the other operands: a product with them may vanish by chance


def settle_means(graph: Graph, dims: Mapping[Value, Dims], effects: Mapping[Op, Effect]) -> None:
    """Let means that are statistics mix what they average over.

    Args:
        graph: The graph.
        dims: The dimensions of every value.
        effects: What each operation does with axes; those of statistics are changed.
    """
    ops = [*graph.ops, *graph.training]
    averaging = [op for op in ops if effects[op].averages]
    if not averaging:
        return
    makers = {value: op for op in ops for value in op.outputs}
    users: dict[Value, list[Op]] = {}
    for op in ops:
        for value in op.inputs:
            if value is not None:
                users.setdefault(value, []).append(op)
    for op in averaging:
        effect = effects[op]
        axes = {axis for dim in effect.averages for axis in atoms(dim) if axis.reason is None}
        if axes and (
            _meets(op, axes, users, dims)
            or not all(_zero(v, axes, makers, dims, graph.engine) for v in op.inputs)
        ):
            effect.mixes.extend(effect.averages)
            effect.contracts[:] = [d for d in effect.contracts if d not in effect.averages]
            effect.averages.clear()


def _meets(
    op: Op, axes: set[Axis], users: Mapping[Value, Sequence[Op]], dims: Mapping[Value, Dims]
) -> bool:
    """Whether what is made of a mean meets a value, element by element, that holds its axes."""
    made = dict.fromkeys(op.outputs)
    todo = list(made)
    while todo:
        for user in users.get(todo.pop(), ()):
            known = stated(user)
            if not (known.elementwise or known.view):
                continue
            others = (v for v in user.inputs if v is not None and v not in made)
            if known.elementwise and any(_holds(other, axes, dims) for other in others):
                return True
            fresh = [value for value in user.outputs if value not in made]
            made.update(dict.fromkeys(fresh))
            todo += fresh
    return False


def _zero(
    value: Value | None,
    axes: set[Axis],
    makers: Mapping[Value, Op],
    dims: Mapping[Value, Dims],
    engine: Evaluator,
) -> bool:
    """Whether a value is zero where what makes its channels is.

    What acts on each element by itself is tried; layers with weights of their own, and whatever
    moves elements about, make nothing of nothing.
    """
    op = makers.get(value) if value is not None else None
    if op is None or not stated(op).elementwise or len(op.outputs) != 1:
        return True
    held = [v for v in op.inputs if v is not None and _holds(v, axes, dims)]
    nothing = {v for v in held if v.is_weight or _zero(v, axes, makers, dims, engine)}
    generator = torch.Generator().manual_seed(0)
    return all(_makes_nothing(op, nothing, generator, engine) for _ in range(_TRIES))


def _makes_nothing(
    op: Op, nothing: set[Value], generator: torch.Generator, engine: Evaluator
) -> bool:
    """Whether one operation, by itself and on random numbers, gives zeros where some are zero."""
    operands = [
        None if v is None else _operand(v, v in nothing, generator, engine.dtype) for v in op.inputs
    ]
    try:
        (found,) = engine.evaluate(op, operands, {}, engine.dtype)
    except (RuntimeError, GraphPruneError):  # not with such numbers: the check will tell
        return True
    return not bool(found.any())


def _holds(value: Value, axes: set[Axis], dims: Mapping[Value, Dims]) -> bool:
    return any(axis in axes for dim in dims[value] for axis in atoms(dim))


def _operand(
    value: Value, nothing: bool, generator: torch.Generator, dtype: torch.dtype
) -> torch.Tensor:
    """Zeros, what is stored, or numbers drawn."""
    kind: torch.dtype = getattr(torch, value.dtype)
    kind = dtype if kind.is_floating_point else kind
    if nothing:
        return torch.zeros(value.shape, dtype=kind)
    if isinstance(value.tensor, torch.Tensor):
        return value.tensor.detach().to(kind)
    drawn = torch.randn(value.shape, generator=generator, dtype=dtype)
    return drawn if kind.is_floating_point else torch.ones(value.shape, dtype=kind)
