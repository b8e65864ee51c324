"""The rule checker: what a rule claims, tried on numbers in float64.

*Cut then op == op then cut*; where the operation contracts the axis, *cutting == zeroing*;
where it mixes the axis, the cut operation runs and the shapes agree. What it takes for a product of
two operands is linear in both. One line tests a rule:

    check_rule(torch.nn.functional.glu, torch.randn(3, 8))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from graphprune.core.axes import Axis, atom
from graphprune.core.effect import Dims
from graphprune.core.graph import Evaluator, Graph, Value
from graphprune.engine.run import Run, given_inputs
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.lift import lift
from graphprune.rules.facts import is_recurrent
from graphprune.rules.registry import infer, is_known
from graphprune.testing.linear import check_products
from graphprune.testing.trial import Keep, Tensors, Trial, copies, some


def check_rule(function: Callable[..., Any], *tensors: torch.Tensor, seed: int = 0) -> list[str]:
    """Check the rules of the operations that a function performs.

    Each operation is tried by itself. Every free axis loses its first index, and its last; then
    all of them lose a random choice at once. Nothing is locked but by the rules. Operations whose
    results differ from run to run, or are left uninitialised, are compared by shape.

    Args:
        function: A function of tensors, or a module.
        *tensors: Its arguments, with no two dimensions of the same length by chance.
        seed: For the choice of indices.

    Returns:
        The types of the operations, in execution order.

    Raises:
        VerifyError: A rule is wrong; names the operation, the rule, the shapes and the cause.
        AxisError: An operation has no rule, or its rule does not fit the shapes.

    Examples:
        >>> check_rule(lambda x: x.relu().flatten(1), torch.randn(2, 3, 4))
        ['aten.relu', 'aten.flatten']
    """
    made = captured(function, *tensors)
    return check_graph(made.graph, made.flat_inputs(), made.graph.engine, seed)


def check_graph(
    graph: Graph, inputs: Sequence[torch.Tensor], engine: Evaluator, seed: int = 0
) -> list[str]:
    """Check the rules of the operations of a graph, as `check_rule` does.

    Args:
        graph: The graph.
        inputs: Its inputs.
        engine: What runs its operations.
        seed: For the choice of indices.
    """
    dims = _free_dims(graph)
    done = []
    for op in graph.ops:
        found, effect = infer(op, dims, strict=True)
        dims.update(zip(op.outputs, found, strict=True))
        done.append((op, effect))
    rng = np.random.default_rng(seed)
    for (op, effect), operands in zip(done, _operands(graph, inputs, engine), strict=True):
        trial = Trial(op, effect, dims, operands, engine)
        for keep in _choices(trial, rng):
            trial.check(keep)
        if not trial.random:
            check_products(op, operands, trial.run, engine.tolerance, rng)
    return [op.type for op, _ in done]


def missed(function: Callable[..., Any], *tensors: torch.Tensor, seed: int = 0) -> list[str]:
    """Find operand dimensions that a rule locks, or calls mixed, without need.

    A dimension is named only if removing any one index, and several random choices of them,
    commutes with the operation (or equals zeroing) on several random inputs. It is tried by
    itself and together with the operands' other such dimensions of the same length. Left out,
    where equality could be chance or cannot be seen: random operations, operations without a
    floating-point result, dimensions shorter than three, and dimensions that the rule refines;
    and recurrent layers, whose kernels read past the end of weights that disagree.

    Args:
        function: A function of tensors, or a module.
        *tensors: Its arguments, with no two dimensions of the same length by chance.
        seed: For the random inputs.

    Returns:
        One line for each dimension: the operation, the dimension, and the rule's reason.
    """
    made = captured(function, *tensors)
    return missed_in_graph(made.graph, made.flat_inputs(), seed)


def missed_in_graph(graph: Graph, inputs: Sequence[torch.Tensor], seed: int = 0) -> list[str]:
    """Find what the rules of a graph's operations lock or call mixed without need, as `missed`.

    Args:
        graph: The graph of a PyTorch function.
        inputs: Its inputs.
        seed: For the random inputs.
    """
    rng = np.random.default_rng(seed)
    out = []
    for op, operands in zip(graph.ops, _operands(graph, inputs, graph.engine), strict=True):
        floats = any("float" in value.dtype for value in op.outputs)
        if not is_known(op.type) or not floats or is_recurrent(op):
            continue
        taken = [value for value in op.inputs if value is not None]
        dims: dict[Value, Dims] = {value: [atom(size) for size in value.shape] for value in taken}
        held = {axis: None for value in taken for dim in dims[value] for axis in dim}
        found, effect = infer(op, dims)
        dims.update(zip(op.outputs, found, strict=True))
        trial = Trial(op, effect, dims, operands, graph.engine)
        for axes in _suspects(list(held), trial):
            if not trial.random and trial.commutes(axes, rng):
                reason = axes[0].reason or "mixed"
                out.append(f"{op.type} ({op.name}): {trial.place(axes)}: {reason}")
    return out


class _Call(nn.Module):
    """A module around a function: what torch.export takes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.function(*tensors)


def captured(function: Callable[..., Any], *tensors: torch.Tensor) -> CapturedModule:
    """A function of tensors, or a module, as a graph with its inputs.

    Args:
        function: The function.
        *tensors: Its arguments.
    """
    return lift(_Call(function), (tensors, {}))


def _free_dims(graph: Graph) -> dict[Value, Dims]:
    values = [*graph.inputs, *graph.weights.values()]
    return {value: [atom(size) for size in value.shape] for value in values}


def _operands(graph: Graph, inputs: Sequence[torch.Tensor], engine: Evaluator) -> list[Tensors]:
    """Each operation's operands, as they are when it runs."""
    out: list[Tensors] = []
    given = given_inputs(graph, inputs, engine.dtype)
    run = Run(graph, lambda v: v.tensor.detach(), [given], dtype=engine.dtype, engine=engine)
    for _ in run.steps(lambda _, operands: out.append(copies(operands))):
        pass
    return out


def _choices(trial: Trial, rng: np.random.Generator) -> Iterator[Keep]:
    """Every free axis without its first, its last and some indices; then several at once."""
    axes = trial.free()
    for axis in axes:
        everything = np.arange(axis.size)
        yield from ({axis: kept} for kept in (everything[1:], everything[:-1]))
    exact = [axis for axis in axes if axis not in trial.mixed]
    for several in (axes, exact):
        yield {axis: some(axis.size, rng) for axis in several}


def _suspects(axes: Sequence[Axis], trial: Trial) -> Iterator[list[Axis]]:
    """Plain axes that are locked or mixed: each, then all of the same length."""
    sound = [
        axis
        for axis in axes
        if axis.find() is axis and axis.factors is None and axis.parts is None and axis.size > 2
    ]
    doubted = [axis for axis in sound if axis.reason is not None or axis in trial.mixed]
    yield from ([axis] for axis in doubted)
    for size in dict.fromkeys(axis.size for axis in doubted):
        alike = [axis for axis in doubted if axis.size == size]
        if len(alike) > 1:
            yield alike
