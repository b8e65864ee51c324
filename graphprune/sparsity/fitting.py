"""fitting: layers get new weights one after another, the original running beside the changed model.

Both run side by side over the samples. What a layer should compute is what it computes of the
original's activations, so that errors do not add up; what it reads is what the changed layers
before it give. Constants go into its bias, or into the batch norm behind it. Weights that serve
several operations are done first, from what all of these read in the original. Whoever derives from
`Fitting` says what becomes of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from graphprune.compensation.consumer import Consumer, Unsolvable
from graphprune.compensation.curves import output_weights
from graphprune.compensation.expect import add_expected
from graphprune.compensation.layout import Layout
from graphprune.compensation.narrowed import shifted
from graphprune.compensation.sensitivity import Sensitivity, sensitivities
from graphprune.core.cuts import Cuts
from graphprune.core.errors import first_line
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Run, given_inputs, resized
from graphprune.sparsity.layers import Layer
from graphprune.sparsity.reads import Reads
from graphprune.sparsity.solve import Problem
from graphprune.statistics.moments import Moments
from graphprune.statistics.samples import Samples, walk

_DAMPING = 1e-3  # of the mean second moment, at least
_NARROW = 512  # columns up to which double precision costs little


@dataclass
class Fitted:
    """New weights.

    Attributes:
        values: New tensors, those of biases and statistics among them.
        left: Weights for which nothing was solved, with the reason.
    """

    values: dict[Value, torch.Tensor] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


class Fitting:
    """Gives layers new weights, by what they read.

    Args:
        deps: The analysis.
        layers: The layers.
        samples: Inputs to take statistics from.
        weighs: Whether outputs count by how much the model's results depend on them.

    Attributes:
        narrow: Columns below which equations are solved in double precision.
    """

    narrow = _NARROW

    def __init__(
        self, deps: Dependencies, layers: Sequence[Layer], samples: Samples, weighs: bool = True
    ) -> None:
        self._deps = deps
        self._samples = samples
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
        self._values: dict[Value, torch.Tensor] = {}
        self._shifts: dict[Value, torch.Tensor] = {}
        self._small: Run | None = None
        self._known: tuple[tuple[object, ...], Moments] | None = None

    # --- what becomes of a layer ----------------------------------------------------------------

    def _settle(self, layer: Layer, problem: Problem) -> torch.Tensor | None:
        """Give a layer new weights, `groups x outputs x columns`; None where no constant changes.

        Raises:
            Unsolvable: There are none; the message is the reason.
        """
        raise NotImplementedError

    def _plainly(self, layer: Layer, why: str) -> None:
        """Give a layer new weights by the weights that it has alone."""
        raise NotImplementedError

    # --- looking ----------------------------------------------------------------------------

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

    # --- fitting ----------------------------------------------------------------------------

    def _fit(self, values: dict[Value, torch.Tensor], advance: Callable[[float], None]) -> None:
        """Give every layer new weights.

        Args:
            values: Where new weights are put.
            advance: Called with the share of the work that is done.
        """
        self._values = values
        for layer in self._layers:
            if not layer.consumers:
                self._plainly(layer, "nothing tells what it reads")
        self._shared()
        deps, samples = self._deps, self._samples
        dense = self._started(samples.weight)
        small = self._small = self._started(self._weight)
        samples.meet(deps.source.inputs, dense)
        touched: set[Value] = set()
        for number, op in enumerate(dense.steps()):
            samples.meet(op.outputs, dense)
            differs = any(v in touched or v in values for v in op.inputs if v is not None)
            for layer in self._due.get(op, ()):
                self._solve(layer, dense, small if differs else dense)
            if differs or op in self._due:
                touched.update(op.outputs)
            small.step(op)
            small.release(op)
            advance((number + 1) / len(deps.source.ops))

    def _started(self, weights: Callable[[Value], torch.Tensor]) -> Run:
        graph = self._deps.source
        given = [given_inputs(graph, chunk, self._dtype) for chunk in self._samples.chunks]
        return Run(graph, weights, given, self._attrs, self._dtype)

    def _weight(self, value: Value) -> torch.Tensor:
        """A weight of the changed model as the samples should meet it."""
        if value in self._values and value not in self._samples.statistics:
            return self._values[value]
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
        double = layer.weight.tensor.dtype == torch.float64 or view.columns < self.narrow
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
        """Give a layer new weights, and what they change on average to its bias."""
        consumer = layer.consumers[0]
        try:
            problem, _ = self._problem(layer, moments)
            new = self._settle(layer, problem)
        except Unsolvable as error:
            self._plainly(layer, str(error))
            return
        except RuntimeError:  # of which LinAlgError is one
            self._plainly(layer, "its equations have no solution in this precision")
            return
        if new is not None and consumer.shifts:
            old = layer.rows().to(new).view(new.shape)
            wanted, found = (m.to(new) for m in moments.means())
            added = old @ wanted[..., None] - new @ found[..., None]
            self._shift(consumer, added.flatten())

    def _shift(self, consumer: Consumer, added: torch.Tensor) -> None:
        """Add a constant to every output, through the bias or the batch norm behind."""
        cuts = Cuts(self._deps, {})
        held, shift = shifted(consumer, torch.arange(consumer.groups), added, cuts)
        shift = shift * consumer.gain if held is consumer.bias else shift
        written = consumer.added if held is consumer.bias else None
        if written is not None:
            new = written.numbers().double() + shift.double().reshape(held.shape)
            stored, numbers = written.stored_as(new.to(written.dtype), cuts, self._weight)
            self._values.update(stored)
            if self._small is not None:  # which may have computed it already
                self._small.replace(held, numbers.to(self._dtype))
            return
        old = self._values.get(held, held.tensor.detach())
        shift = shift.to(old.device).reshape(old.shape)
        self._shifts[held] = self._shifts.get(held, torch.zeros_like(shift)) + shift
        self._values[held] = (old.double() + shift.double()).to(held.tensor.dtype)


def finite(found: torch.Tensor) -> torch.Tensor:
    """New weights that are numbers.

    Raises:
        Unsolvable: Some are none.
    """
    if not bool(torch.isfinite(found).all()):
        raise Unsolvable("what it reads is not finite")
    return found
