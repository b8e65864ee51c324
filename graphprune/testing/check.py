"""The rule checker: what a rule claims, tried on numbers in float64.

*Cut then op == op then cut*; where the operation contracts the axis, *cutting == zeroing*;
where it mixes the axis, the cut operation runs and the shapes agree. What it takes for a product of
two operands is linear in both. One line tests a rule:

    check_rule(torch.nn.functional.glu, torch.randn(3, 8))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from graphprune.core.axes import Axis, atom, atoms, length
from graphprune.core.cuts import Cuts, narrow
from graphprune.core.effect import Dims, Effect
from graphprune.core.errors import VerifyError
from graphprune.core.graph import Evaluator, Graph, Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Indices, kept_indices
from graphprune.engine.run import Run, given_inputs
from graphprune.engine.tensors import cut_tensor, difference
from graphprune.frontends.torch.lift import CapturedModule, lift
from graphprune.rules import facts
from graphprune.rules.facts import is_blank, is_random, is_recurrent
from graphprune.rules.registry import infer, is_known
from graphprune.rules.site import said, shapes
from graphprune.testing.linear import check_products

Keep = Mapping[Axis, Indices]
Tensors = list["torch.Tensor | None"]


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
        trial = _Trial(op, effect, dims, operands, engine)
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
        trial = _Trial(op, effect, dims, operands, graph.engine)
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
    for _ in run.steps(lambda _, operands: out.append(_copies(operands))):
        pass
    return out


def _copies(tensors: Tensors) -> Tensors:
    return [None if tensor is None else tensor.clone() for tensor in tensors]


def _some(size: int, rng: np.random.Generator) -> Indices:
    """A random choice of indices: at least one, and not all."""
    kept = rng.choice(size, int(rng.integers(1, size)), replace=False)
    return np.sort(kept).astype(np.int64)


def _choices(trial: _Trial, rng: np.random.Generator) -> Iterator[Keep]:
    """Every free axis without its first, its last and some indices; then several at once."""
    axes = trial.free()
    for axis in axes:
        everything = np.arange(axis.size)
        yield from ({axis: kept} for kept in (everything[1:], everything[:-1]))
    exact = [axis for axis in axes if axis not in trial.mixed]
    for several in (axes, exact):
        yield {axis: _some(axis.size, rng) for axis in several}


def _suspects(axes: Sequence[Axis], trial: _Trial) -> Iterator[list[Axis]]:
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


@dataclass
class _Trial:
    """One operation, ready to be run on narrowed operands."""

    op: Op
    effect: Effect
    dims: Mapping[Value, Dims]
    operands: Tensors
    engine: Evaluator

    def __post_init__(self) -> None:
        self.mixed = {axis for dim in self.effect.mixes for axis in atoms(dim)}
        self.contracted = {axis for dim in self.effect.contracts for axis in atoms(dim)}
        self.random = is_blank(self.op) or self._varies()
        self._deps = Dependencies(
            Graph([self.op], [], [], {}, self.engine), self.dims, {self.op: self.effect}, infer
        )

    def _varies(self) -> bool:
        """Whether results differ from run to run; attention without dropout only might."""
        if not self.engine.random(self.op) and not is_random(self.op):
            return False
        if self.op.attrs.get("seed") is not None:  # the same numbers again, others once narrowed
            return True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first, *others = (self.run(self.operands) for _ in range(5))
        return any(
            difference(a, b) > 0 for other in others for a, b in zip(first, other, strict=True)
        )

    def free(self) -> list[Axis]:
        """The axes that the operation touches and that may lose indices."""
        values = [*(value for value in self.op.inputs if value is not None), *self.op.outputs]
        found = dict.fromkeys(axis for v in values for dim in self.dims[v] for axis in atoms(dim))
        return [axis for axis in found if axis.reason is None and axis.size > 1]

    def check(self, keep: Keep) -> None:
        """Compare the narrowed operation with the original one.

        Raises:
            VerifyError: They differ, or the narrowed one does not run.
        """
        cuts = narrow(self._deps, keep)
        try:
            found = self.narrowed(cuts, self.operands)
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise self._wrong(keep, f"it does not run: {error}") from error
        zeroed = self.zeroed(keep, [axis for axis in keep if axis in self.contracted])
        for number, (full, cut) in enumerate(zip(self.run(zeroed), found, strict=True)):
            expected = cut_tensor(full, cuts.kept(self.op.outputs[number]))
            if expected.shape != cut.shape:
                have = f"result {number} has the shape {list(cut.shape)}"
                raise self._wrong(keep, f"{have}, not {list(expected.shape)}")
            if self.mixed & keep.keys() or self.random:
                continue
            gap = difference(expected, cut)
            if gap > self.engine.tolerance:
                raise self._wrong(keep, f"result {number} differs by {gap:.3g}", gap)

    def _wrong(self, keep: Keep, cause: str, gap: float = float("inf")) -> VerifyError:
        """The error that says that removal contradicts the rule."""
        what = f"is wrong on the shapes {shapes(self.op)}: without some of {self.place(keep)}"
        rule = facts.found(self.op).text
        return VerifyError(said(self.op, rule, f"{what}, {cause}"), self.op.name, gap)

    def commutes(self, axes: Sequence[Axis], rng: np.random.Generator) -> bool:
        """Whether removal along axes that the rule holds back would have been exact."""
        size = axes[0].size
        readings: set[int | None] = {None, *range(max(len(v.shape) for v in self.op.outputs))}
        for sign in (0, -1, 1):
            operands = [_renewed(tensor, sign, rng) for tensor in self.operands]
            singles = [np.delete(np.arange(size), i) for i in range(size)]
            for kept in [*singles, *(_some(size, rng) for _ in range(4))]:
                readings = self._readings(readings, dict.fromkeys(axes, kept), operands)
                if not readings:
                    return False
        return True

    def _readings(
        self, readings: Iterable[int | None], keep: Keep, operands: Tensors
    ) -> set[int | None]:
        """Which result dimensions, cut after zeroing, give the narrowed results (None: as is)."""
        kept = next(iter(keep.values()))
        size = next(iter(keep)).size
        try:
            found = self.narrowed(narrow(self._deps, keep), operands)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return set()
        masked = self.run(self.zeroed(keep, list(keep), operands))
        out = set()
        for dim in readings:
            cut = masked
            if dim is not None:
                if any(x.dim() <= dim or x.shape[dim] != size for x in masked):
                    continue
                cut = [cut_tensor(x, [None] * dim + [kept]) for x in masked]
            if all(
                difference(a, b) <= self.engine.tolerance for a, b in zip(cut, found, strict=True)
            ):
                out.add(dim)
        return out

    def narrowed(self, cuts: Cuts, operands: Tensors) -> list[torch.Tensor]:
        """The results of the narrowed operation."""
        small = [
            None if value is None or tensor is None else cut_tensor(tensor, cuts.kept(value))
            for value, tensor in zip(self.op.inputs, operands, strict=True)
        ]
        return self.run(small, cuts.attrs.get(self.op, {}))

    def zeroed(self, keep: Keep, axes: Sequence[Axis], operands: Tensors | None = None) -> Tensors:
        """The operands without what the removed indices of some axes hold."""
        gone = {axis: keep[axis] for axis in axes}
        out: Tensors = []
        for value, tensor in zip(self.op.inputs, operands or self.operands, strict=True):
            for number, dim in enumerate([] if value is None else self.dims[value]):
                kept = kept_indices(dim, gone)
                if kept is not None and tensor is not None:
                    rest = np.setdiff1d(np.arange(length(dim)), kept)
                    tensor = tensor.index_fill(number, torch.as_tensor(rest), 0)
            out.append(tensor)
        return out

    def run(
        self, operands: Tensors, changed: Mapping[str, Any] | None = None
    ) -> list[torch.Tensor]:
        """The results of the operation, which may write to none of its operands."""
        run = self.engine.evaluate
        with torch.no_grad():
            return run(self.op, _copies(operands), changed or {}, self.engine.dtype)

    def place(self, axes: Iterable[Axis]) -> str:
        """Where axes occur among the operands and results."""
        wanted = set(axes)
        values = [(f"operand {i}", value) for i, value in enumerate(self.op.inputs)]
        values += [(f"result {i}", value) for i, value in enumerate(self.op.outputs)]
        return ", ".join(
            f"{name} {list(value.shape)} dim {number}"
            for name, value in values
            if value is not None
            for number, dim in enumerate(self.dims[value])
            if wanted & set(atoms(dim))
        )


def _renewed(
    tensor: torch.Tensor | None, sign: int, rng: np.random.Generator
) -> torch.Tensor | None:
    """Other random numbers, of one sign unless it is 0; integers stay."""
    if tensor is None or not tensor.is_floating_point():
        return tensor
    fresh = torch.as_tensor(rng.standard_normal(tensor.shape), dtype=tensor.dtype)
    return sign * (fresh.abs() + 0.1) if sign else fresh
