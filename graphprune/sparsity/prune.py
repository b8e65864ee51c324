"""prune: set numbers to zero, layer by layer, and let the others make up for them.

The original and the sparse graph run side by side over the samples. What a layer should compute is
what it computes of the original's activations, so that errors do not add up; what it reads is what
the sparse layers before it give. Constants go into its bias, or into the batch norm behind it.
Weights that serve several operations are done first, from what all of these read in the original.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from graphprune.compensation.consumers import Consumer, Unsolvable
from graphprune.compensation.curves import output_weights
from graphprune.compensation.expect import add_expected
from graphprune.compensation.layout import Layout
from graphprune.compensation.sensitivity import Sensitivity, sensitivities
from graphprune.core.errors import first_line
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Run, given_inputs, resized
from graphprune.sparsity.layers import Layer
from graphprune.sparsity.patterns import Pattern
from graphprune.sparsity.reads import Reads
from graphprune.sparsity.solve import Problem, alternated, flat, settled
from graphprune.sparsity.spread import STEPS
from graphprune.statistics.moments import Moments
from graphprune.statistics.samples import Samples, walk

_DAMPING = 1e-3  # of the mean second moment, at least
_NARROW = 512  # columns up to which double precision costs little
_PROBED = (0.25, 0.5, 0.75, 0.9)  # shares of a layer that are tried out for its loss curve
_BRIEF = 8  # steps of conjugate gradients of such a trial
_NOTHING = 1e-3  # of what a layer computes, less than which is as good as nothing

Curve = npt.NDArray[np.float64]


@dataclass
class Pruned:
    """Sparse weights.

    Attributes:
        values: New tensors, those of biases and statistics among them.
        kept: Which numbers of each weight stay, in its shape.
        left: Weights whose other numbers do not make up for the zeros, with the reason.
    """

    values: dict[Value, torch.Tensor] = field(default_factory=dict)
    kept: dict[Value, torch.Tensor] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manner:
    """How zeros are chosen.

    Attributes:
        importance: `"magnitude"`, `"wanda"`, `"obs"` or `"random"`.
        pattern: How they may lie.
        solves: Whether what stays makes up for them.
        by_row: Whether equally many go in each row.
        seed: For what is drawn.
    """

    importance: str
    pattern: Pattern
    solves: bool = True
    by_row: bool = False
    seed: int = 0

    def scores(self, rows: torch.Tensor, problem: Problem | None) -> torch.Tensor:
        """What each number of a matrix counts.

        Args:
            rows: The matrix.
            problem: What the layer should compute; None where that is not known.
        """
        if self.importance == "random":
            generator = torch.Generator().manual_seed(self.seed)
            return torch.rand(rows.shape, generator=generator)
        if problem is None or self.importance == "magnitude":
            return rows.square()
        if self.importance == "wanda":
            return flat(problem.activated())
        return flat(problem.saliencies())


def plainly(
    layers: Sequence[Layer],
    gone: Mapping[Value, int],
    manner: Manner,
    given: Mapping[Value, torch.Tensor] | None = None,
) -> Pruned:
    """Choose zeros by the weights alone.

    Args:
        layers: The layers.
        gone: How many units of each become zero.
        manner: How they are chosen.
        given: Which numbers of each weight stay, where that was decided before.
    """
    out = Pruned()
    for layer in layers:
        plain(out, layer, gone.get(layer.weight, 0), manner, (given or {}).get(layer.weight))
    return out


def plain(out: Pruned, layer: Layer, gone: int, manner: Manner, given: torch.Tensor | None) -> None:
    """Choose the zeros of one layer by its weights alone."""
    rows = layer.rows()
    if given is not None:
        kept = layer.view.rows(given.float()).bool()
    else:
        kept = manner.pattern.choose(manner.scores(rows, None), gone, manner.by_row)
    note(out, layer, rows * kept, kept)


def note(out: Pruned, layer: Layer, rows: torch.Tensor, kept: torch.Tensor) -> None:
    """Write down a sparse matrix."""
    held = layer.weight.tensor
    out.kept[layer.weight] = layer.view.weight(kept)
    out.values[layer.weight] = layer.view.weight(rows).to(held.dtype)


class Pruner:
    """Prunes the layers of a model from what they read.

    Args:
        deps: The analysis.
        layers: The layers.
        samples: Inputs to take statistics from.
        manner: How zeros are chosen.
        weighs: Whether outputs count by how much the model's results depend on them.
    """

    def __init__(
        self,
        deps: Dependencies,
        layers: Sequence[Layer],
        samples: Samples,
        manner: Manner,
        weighs: bool = True,
    ) -> None:
        self._deps = deps
        self._samples = samples
        self._manner = manner
        self._layers = layers
        graph = deps.source
        double = graph.engine.native is None and any(
            v.dtype == "float64" for v in graph.parameters()
        )
        self._dtype = torch.float64 if double else torch.float32
        self._attrs = resized(deps, {}, samples.size)
        self._reads = Reads(deps, self._attrs, samples.size, self._dtype)
        ops = list(dict.fromkeys(c.op for layer in layers for c in layer.consumers))
        self._senses: Mapping[Op, Sensitivity] | None = (
            sensitivities(deps, samples, ops) if weighs else None
        )
        self._due: dict[Op, list[Layer]] = {}
        for layer in layers:
            if len(layer.consumers) == 1:
                self._due.setdefault(layer.consumers[0].op, []).append(layer)
        self._gone: Mapping[Value, int] = {}
        self._given: Mapping[Value, torch.Tensor] = {}
        self._out = Pruned()
        self._shifts: dict[Value, torch.Tensor] = {}
        self._known: tuple[tuple[object, ...], Moments] | None = None

    # --- loss curves ------------------------------------------------------------------------

    def curves(self, advance: Callable[[float], None] = lambda _: None) -> dict[Value, Curve]:
        """What each layer loses once 1, 2, ... of `STEPS` parts of it are zero.

        It loses what its outputs' error counts in the results' own; as what gets through layers in
        a row is a product, its logarithm counts.
        """
        out: dict[Value, Curve] = {}

        def weigh(layer: Layer, problem: Problem, whole: float | None) -> None:
            out[layer.weight] = self._curve(problem, whole)

        self._visit(weigh, advance)
        most = max((float(curve[-1]) for curve in out.values()), default=1.0)
        return {weight: curve / max(most, 1e-300) for weight, curve in out.items()}

    def scores(
        self, advance: Callable[[float], None] = lambda _: None
    ) -> dict[Value, torch.Tensor]:
        """What each unit of each layer counts, by what the layers of the original read."""
        out: dict[Value, torch.Tensor] = {}

        def weigh(layer: Layer, problem: Problem, whole: float | None) -> None:
            found = self._manner.scores(layer.rows(), problem)
            out[layer.weight] = self._manner.pattern.units(found).float()

        self._visit(weigh, advance)
        return out

    def _visit(
        self,
        weigh: Callable[[Layer, Problem, float | None], None],
        advance: Callable[[float], None],
    ) -> None:
        ops = self._deps.source.ops
        for number, (op, run) in enumerate(walk(self._deps, self._samples, self._dtype)):
            for layer in self._due.get(op, ()):
                values = run.values(layer.consumers[0].value)
                try:
                    moments = self._moments(layer, [(x, x) for x in values])
                    problem, whole = self._problem(layer, moments)
                    weigh(layer, problem, whole)
                except (Unsolvable, RuntimeError):  # of which LinAlgError is one
                    continue
            advance((number + 1) / len(ops))

    def _curve(self, problem: Problem, whole: float | None) -> Curve:
        """The loss of the shares that are tried, and in between."""
        pattern = self._manner.pattern
        nothing = problem.error(torch.zeros_like(problem.wanted))
        scores = flat(problem.saliencies())
        units = pattern.units(scores).numel()
        lost = [0.0]
        for share in _PROBED:
            kept = pattern.choose(scores, int(share * units))
            tried = settled(problem, problem.wanted, kept, _BRIEF)
            lost.append(max(problem.error(tried) / max(nothing, 1e-300), lost[-1]))
        shares = np.arange(1, STEPS + 1) / STEPS
        # The logarithm of the error grows evenly in between; at zero there is none.
        at = np.log(np.maximum([*lost[1:], 1.0], 1e-12))
        curve = np.exp(np.interp(shares, [*_PROBED, 1.0], at))
        low = shares < _PROBED[0]
        curve[low] = lost[1] * (shares[low] / _PROBED[0]) ** 2
        unit = nothing if whole is None else whole
        found: Curve = -np.log(np.maximum(1 - curve, _NOTHING)) * unit
        return found

    # --- pruning ----------------------------------------------------------------------------

    def prune(
        self,
        gone: Mapping[Value, int],
        given: Mapping[Value, torch.Tensor] | None = None,
        advance: Callable[[float], None] = lambda _: None,
    ) -> Pruned:
        """Prune every layer.

        Args:
            gone: How many units of each become zero.
            given: Which numbers stay, where that was decided before.
            advance: Called with the share of the work that is done.
        """
        self._gone, self._given = gone, given or {}
        self._out = Pruned()
        for layer in self._layers:
            if not layer.consumers:
                self._plainly(layer, "nothing tells what it reads")
        self._shared()
        deps, samples = self._deps, self._samples
        dense = self._started(samples.weight)
        small = self._started(self._weight)
        samples.meet(deps.source.inputs, dense)
        touched: set[Value] = set()
        for number, op in enumerate(dense.steps()):
            samples.meet(op.outputs, dense)
            differs = any(v in touched or v in self._out.values for v in op.inputs if v is not None)
            for layer in self._due.get(op, ()):
                self._solve(layer, dense, small if differs else dense)
            if differs or op in self._due:
                touched.update(op.outputs)
            small.step(op)
            small.release(op)
            advance((number + 1) / len(deps.source.ops))
        return self._out

    def _started(self, weights: Callable[[Value], torch.Tensor]) -> Run:
        graph = self._deps.source
        given = [given_inputs(graph, chunk, self._dtype) for chunk in self._samples.chunks]
        return Run(graph, weights, given, self._attrs, self._dtype)

    def _weight(self, value: Value) -> torch.Tensor:
        """A weight of the sparse model as the samples should meet it."""
        if value in self._out.values and value not in self._samples.statistics:
            return self._out.values[value]
        held = self._samples.weight(value)
        return held + self._shifts[value].to(held.dtype) if value in self._shifts else held

    def _shared(self) -> None:
        """Weights that serve several operations, from what all of these read in the original."""
        shared = [layer for layer in self._layers if len(layer.consumers) > 1]
        if not shared:
            return
        due: dict[Op, list[tuple[Layer, Consumer]]] = {}
        for layer in shared:
            for consumer in layer.consumers:
                due.setdefault(consumer.op, []).append((layer, consumer))
        pools = {layer: Moments(self._samples.worth) for layer in shared}
        for op, run in walk(self._deps, self._samples, self._dtype):
            for layer, consumer in due.get(op, ()):
                if layer not in pools:
                    continue
                pairs = [(x, x) for x in run.values(consumer.value)]
                try:
                    self._reads.gather(consumer, layer.view, pairs, pools[layer])
                except (Unsolvable, RuntimeError) as error:
                    del pools[layer]
                    self._plainly(layer, first_line(error))
        for layer, moments in pools.items():
            self._apply(layer, moments)

    def _solve(self, layer: Layer, dense: Run, small: Run) -> None:
        source = layer.consumers[0].value
        wanted = dense.values(source)
        found = wanted if source in layer.consumers[0].op.outputs else small.values(source)
        try:
            moments = self._moments(layer, list(zip(wanted, found, strict=True)))
        except (Unsolvable, RuntimeError) as error:
            self._plainly(layer, first_line(error))
            return
        self._apply(layer, moments)

    def _moments(self, layer: Layer, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> Moments:
        """Of what a layer reads; several layers often read one value."""
        consumer, view = layer.consumers[0], layer.view
        plain = not view.kernel
        key = (consumer.value, consumer.channel, view.groups, view.columns)
        same = all(a is b for a, b in pairs)
        if plain and self._known is not None and self._known[0] == (*key, same):
            return self._known[1]
        moments = Moments(self._samples.worth)
        self._reads.gather(consumer, view, pairs, moments)
        if plain:
            how = Layout(view.groups, 1, view.channels, 1)
            add_expected(moments, self._deps, self._samples, consumer, how)
            self._known = (*key, same), moments
        return moments

    def _problem(self, layer: Layer, moments: Moments) -> tuple[Problem, float | None]:
        """What a layer should compute, and what its relative error counts; see `output_weights`."""
        consumer, view = layer.consumers[0], layer.view
        double = layer.weight.tensor.dtype == torch.float64 or view.columns < _NARROW
        weight = layer.rows().to(torch.float64 if double else torch.float32)
        weight = weight.view(view.groups, -1, view.columns)
        cross, own = (m.to(weight) for m in moments.second(central=consumer.shifts))
        same = cross is own or torch.equal(cross, own)
        share = moments.scarcity().clamp(_DAMPING, 1.0).to(weight)
        ridge = share * own.diagonal(dim1=1, dim2=2).mean(1) + 1e-12
        own, cross = own.clone(), cross.clone()
        own.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        cross.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
        wanted = weight
        if not same:
            factor = torch.linalg.cholesky(own)
            wanted = torch.cholesky_solve((weight @ cross).mT, factor).mT.contiguous()
        if not all(bool(torch.isfinite(x).all()) for x in (own, wanted)):
            raise Unsolvable("what it reads is not finite")
        gains, whole = output_weights(consumer, self._senses, self._samples)
        counts = gains.to(weight).square().reshape(view.groups, -1)
        if counts.shape != wanted.shape[:2]:  # several layers in one operation
            counts = torch.ones_like(wanted[:, :, 0])
        return Problem(wanted, own, counts), whole

    def _apply(self, layer: Layer, moments: Moments) -> None:
        """Choose the zeros of a layer, and solve for the rest."""
        consumer, manner = layer.consumers[0], self._manner
        try:
            problem, _ = self._problem(layer, moments)
            start, kept = self._chosen(layer, problem)
            if not manner.solves:
                rows = layer.rows()
                note(self._out, layer, rows * kept, kept)
                return
            new = settled(problem, start, kept)
            if not bool(torch.isfinite(new).all()):
                raise Unsolvable("what it reads is not finite")
        except Unsolvable as error:
            self._plainly(layer, str(error))
            return
        except RuntimeError:  # of which LinAlgError is one
            self._plainly(layer, "its equations have no solution in this precision")
            return
        note(self._out, layer, flat(new), kept)
        if consumer.shifts:
            old = layer.rows().to(new).view(new.shape)
            wanted, found = (m.to(new) for m in moments.means())
            added = old @ wanted[..., None] - new @ found[..., None]
            self._shift(consumer, added.flatten())

    def _chosen(self, layer: Layer, problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
        """Weights to start from, and which of them stay."""
        manner, gone = self._manner, self._gone.get(layer.weight, 0)
        known = self._given.get(layer.weight)
        if known is not None:
            return problem.wanted, layer.view.rows(known.to(problem.wanted)).bool()
        if manner.importance == "obs" and manner.solves:
            return alternated(problem, manner.pattern, gone)
        scores = manner.scores(layer.rows(), problem)
        return problem.wanted, manner.pattern.choose(scores, gone, manner.by_row)

    def _plainly(self, layer: Layer, why: str) -> None:
        """Zeros by the weights alone."""
        weight, manner = layer.weight, self._manner
        plain(self._out, layer, self._gone.get(weight, 0), manner, self._given.get(weight))
        if manner.solves:
            self._out.left[weight.name] = why

    def _shift(self, consumer: Consumer, added: torch.Tensor) -> None:
        """Add a constant to every output, through the bias or the batch norm behind."""
        if consumer.bias is not None:
            held, sign = consumer.bias, 1.0
        else:
            assert consumer.norm is not None and consumer.norm.inputs[3] is not None
            held, sign = consumer.norm.inputs[3], -1.0
        old = self._out.values.get(held, held.tensor.detach())
        shift = sign * added.to(old.device).reshape(old.shape)
        self._shifts[held] = self._shifts.get(held, torch.zeros_like(shift)) + shift
        self._out.values[held] = (old.double() + shift.double()).to(held.tensor.dtype)


def sizes(layers: Collection[Layer], pattern: Pattern) -> npt.NDArray[np.int64]:
    """Units of each layer that can become zero."""
    return np.array([layer.size // pattern.cells for layer in layers], np.int64)
