"""elsewhere: generated code held against the original's, at another batch size and in training.

One capture has one batch size and one mode. The original is captured once more with one sample
more, and in training mode; that graph is narrowed by the same choice, and generated code must
compute the same there, or refuse by name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.core.axes import atom
from graphprune.core.cuts import Cuts, narrow
from graphprune.core.effect import Dims, Effect
from graphprune.core.errors import GraphPruneError, LiftError, VerifyError, first_line
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.program import Inputs
from graphprune.engine.run import final_values, given_inputs
from graphprune.engine.state import preserved
from graphprune.engine.tensors import difference
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.compare import perturbed, swapped, tolerance
from graphprune.frontends.torch.lift import captured_again
from graphprune.frontends.torch.lowered import Lowered
from graphprune.rules.statistic import settle_means

_SHARE = 0.5  # what numbers that are drawn between 0 and 1 are here


def compare_elsewhere(captured: CapturedModule, cuts: Cuts, lowered: Lowered) -> None:
    """Hold generated code against the narrowed original where it was not captured.

    Code that cannot be captured there, or refuses by name, is not compared.

    Raises:
        VerifyError: It computes something else; says where.
    """
    for inputs, training in _places(captured):
        try:
            other = captured_again(captured, inputs, training)
        except LiftError:
            continue
        there = _narrowed(captured.graph, other.graph, cuts)
        if there is not None:
            _held(other, there, lowered, training)


def _places(captured: CapturedModule) -> Iterator[tuple[Inputs, bool]]:
    """Other inputs, and whether in training mode."""
    tensors = [x for x in pytree.tree_leaves(captured.inputs) if isinstance(x, torch.Tensor)]
    number = len(tensors[0]) if tensors and tensors[0].dim() else 0
    if number and all(x.dim() and len(x) == number for x in tensors):
        more: Inputs = pytree.tree_map_only(
            torch.Tensor, lambda x: torch.cat([x, x[:1].flip(-1)]), captured.inputs
        )
        yield more, False
    yield captured.inputs, True


def _narrowed(first: Graph, graph: Graph, cuts: Cuts) -> Cuts | None:
    """The same choice in another graph of the model; None where that has other dimensions.

    The weights have the axes that they have in the first graph, so that the choice holds for both.
    Copies of them are at work: nothing that is found here changes the first analysis.
    """
    known, keep = copy.deepcopy(({n: cuts.deps.dims[v] for n, v in first.weights.items()},
                                 dict(cuts.keep)))  # fmt: skip
    parted = {axis for axis in keep if axis.parts is not None or axis.factors is not None}
    dims: dict[Value, Dims] = {}
    for name, value in graph.weights.items():
        own = first.weights.get(name)
        alike = own is not None and own.shape == value.shape and own.kind == value.kind
        dims[value] = known[name] if alike else [atom(size) for size in value.shape]
    for value in graph.inputs:
        dims[value] = [atom(size, f"model input {value.name}") for size in value.shape]
    effects: dict[Op, Effect] = {}
    for op in graph.ops:
        results, effects[op] = cuts.deps.infer(op, dims)
        dims.update(zip(op.outputs, results, strict=False))
    settle_means(graph, dims, effects)
    again = {axis for axis in keep if axis.parts is not None or axis.factors is not None}
    if again != parted or any(axis.find() is not axis for axis in keep):
        return None
    return narrow(Dependencies(graph, dims, effects, cuts.deps.infer), keep)


def _held(other: CapturedModule, cuts: Cuts, lowered: Lowered, training: bool) -> None:
    """Run the narrowed graph and the smaller module on the same inputs.

    Raises:
        VerifyError: They differ by more than rounding.
    """
    values = perturbed(other, cuts)
    held = {value: tensor.clone() for value, tensor in values.items()}
    graph = other.graph
    try:
        with _Steady():  # type: ignore[no-untyped-call]
            given = given_inputs(graph, other.flat_inputs())
            expected = final_values(graph, held.__getitem__, given, cuts.attrs)
    except (RuntimeError, IndexError, TypeError, ValueError, KeyError):
        return  # an operation that only runs inside its module: there is nothing to compare with
    folds = [replace(f, weight=graph.weights.get(f.weight.name, f.weight)) for f in lowered.folds]
    swap = swapped(lowered.model, values, Lowered(lowered.model, folds=folds))
    args, kwargs = pytree.tree_map_only(torch.Tensor, torch.clone, other.inputs)
    where = "in training mode" if training else f"with {other.batch()} samples"
    with preserved(lowered.model, fused=True), torch.no_grad(), _Steady():  # type: ignore[no-untyped-call]
        lowered.model.train(training)
        try:
            found = torch.func.functional_call(lowered.model, swap, args, kwargs)
        except GraphPruneError:  # refused by name
            return
        except Exception as error:
            what = f"generated code does not run {where}: {first_line(error)}"
            raise VerifyError(what, "", float("inf")) from error
    tensors = [x for x in pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]
    for value, tensor in zip(graph.outputs, tensors, strict=False):
        if value not in expected:
            continue
        gap = difference(expected[value].double(), tensor.double())
        if gap > tolerance(expected[value]):
            raise VerifyError(
                f"generated code differs {where} at output {value.name}: largest relative "
                f"difference {gap:.3g}",
                value.name,
                gap,
            )


class _Steady(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers that are drawn are all the same, in whatever order code draws them.

    Of what is dropped all stays, scaled as ever: so a dropout that is missing still shows.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.native_dropout.default and args[2] is not False:
            return args[0] / (1 - args[1]), torch.ones_like(made[1])
        if torch.Tag.nondeterministic_seeded not in func.tags or not isinstance(made, torch.Tensor):
            return made
        with torch.no_grad():
            return made.fill_(1 if "bernoulli" in func.name() else _SHARE)
