"""compensate: refit every linear operation that reads fewer channels, by least squares.

The original and the smaller graph run side by side over the samples, operation by operation. With x
what an operation reads in the original, and z what stays of it in the smaller graph, its new
weights and bias are

    W' = argmin E|W x - W' z - c|² + ridge,      b' = b + c                      (`refit`)

The target W x is the original's, and z contains the errors of all layers before, so that each layer
also corrects these: errors do not add up. Layer-wise least squares for pruning is due to He et al.
(Channel Pruning, ICCV 2017) and Luo et al. (ThiNet, ICCV 2017).

Where no constant can be added (neither bias nor batch norm), c = 0. Where only channels are removed
whose removal changes nothing, weights stay as they were cut. A weight that several operations share
is refitted once, before all others, from what these operations read in the original.

Example:
    y = x₁ + x₂ with x₂ = 2 x₁ + 1. After x₂ is removed, y' = 3 x₁ + 1: nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from graphprune.compensation.constants import DOUBLE_BELOW, WIDEST
from graphprune.compensation.consumer import Consumer, Unsolvable
from graphprune.compensation.consumers import find_consumers, held_beside
from graphprune.compensation.expect import add_expected
from graphprune.compensation.grid import Grid
from graphprune.compensation.layout import Place, kept_channels, layout
from graphprune.compensation.narrowed import narrowed, shifted
from graphprune.compensation.refit import refit
from graphprune.core.axes import Dim, atoms, length
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.engine.run import Attrs, LastUses, Run, given_inputs, resized
from graphprune.engine.tensors import cut_tensor
from graphprune.importance.free import missed
from graphprune.importance.freedom import Masks
from graphprune.statistics.moments import Moments, singly, widest
from graphprune.statistics.samples import Samples, walk

_OTHERWISE = "operations that share its weight read it otherwise"


@dataclass
class Compensation:
    """New values for the weights of a narrowed graph.

    Attributes:
        values: Tensors in the narrowed shapes.
        left: Names of operations that read fewer channels and were not refitted, with the reason.
        unshifted: Names of operations refitted without a constant, as the graph computes their
            bias.
    """

    values: dict[Value, torch.Tensor] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unshifted: list[str] = field(default_factory=list)


def compensate(
    cuts: Cuts,
    samples: Samples,
    free: Masks,
    advance: Callable[[float], None] = lambda _: None,
) -> Compensation:
    """Refit the weights of a narrowed graph.

    Args:
        cuts: The narrowed graph.
        samples: The inputs that statistics are taken from.
        free: The indices whose removal changes no result, which need no refit.
        advance: Called with the share of the work that is done.
    """
    return _Compensator(cuts, samples, free).run(advance)


@dataclass(frozen=True)
class _Pool:
    """The moments of what all operations read that share a weight.

    Attributes:
        consumer: The first of the operations.
        place: Its channels; those of the others must be the same.
        moments: Of all of them.
    """

    consumer: Consumer
    place: Place
    moments: Moments


class _Compensator:
    """The runs of both graphs, and the weights found so far."""

    def __init__(self, cuts: Cuts, samples: Samples, free: Masks) -> None:
        self._cuts = cuts
        self._deps = cuts.deps
        self._consumers = find_consumers(cuts.deps)
        found = self._consumers.by_op
        self._held = held_beside(one for several in found.values() for one in several)
        self._missed = missed(free, cuts.keep)
        self._out = Compensation()
        graph, batch = cuts.deps.source, samples.size
        double = graph.engine.native is None and any(
            v.dtype == "float64" for v in graph.parameters()
        )
        self._samples = samples
        self._shifts: dict[Value, torch.Tensor] = {}
        self._dtype = torch.float64 if double else torch.float32
        attrs = resized(self._deps, {}, batch)
        self._dense = self._started(samples.weight, attrs)
        attrs = resized(self._deps, cuts.keep, batch)
        self._small = self._started(self._weight, attrs)
        self._differs: set[Value] = set()
        self._done: list[Op] = []

    def _started(self, weights: Callable[[Value], torch.Tensor], attrs: Attrs) -> Run:
        """A run over the samples, at its start."""
        graph = self._deps.source
        given = [given_inputs(graph, chunk, self._dtype) for chunk in self._samples.chunks]
        uses = LastUses(graph.ops, self._held)
        return Run(graph, weights, given, attrs, self._dtype, uses=uses)

    def run(self, advance: Callable[[float], None]) -> Compensation:
        """Refit in execution order; `advance` is called with the share of operations done."""
        ops = self._deps.source.ops
        self._solve_shared()
        self._samples.meet(self._deps.source.inputs, self._dense)
        for number, op in enumerate(self._dense.steps()):
            differs = self._reads_fewer(op) or any(v in self._differs for v in op.inputs)
            self._samples.meet(op.outputs, self._dense)
            if differs:
                self._solve_for(op)
                self._differs.update(op.outputs)
            self._small.step(op)
            self._small.release(op)
            self._done.append(op)
            advance((number + 1) / len(ops))
        return self._out

    def _solve_shared(self) -> None:
        """Refit weights that several operations share, from what these read in the original.

        What they read in the narrowed graph is not known yet: it may depend on these weights.
        """
        shared = {
            op: [c for c in held if c.uses > 1 and self._misses(self._read_by(c))]
            for op, held in self._consumers.by_op.items()
        }
        if not any(shared.values()):
            return
        pools: dict[Value, _Pool] = {}
        for op, run in walk(self._deps, self._samples, self._dtype, self._held):
            for consumer in shared.get(op, ()):
                with self._reporting(op):
                    self._pool(consumer, consumer.values(run), pools)
        for pool in pools.values():
            if pool.consumer.op.name not in self._out.left:
                with self._reporting(pool.consumer.op):
                    self._refit(pool.consumer, pool.place, pool.moments)

    def _pool(
        self, consumer: Consumer, values: Sequence[torch.Tensor], pools: dict[Value, _Pool]
    ) -> None:
        """Add what an operation reads to the moments of its shared weight.

        Raises:
            Unsolvable: It reads other channels than the operations before.
        """
        place = self._place(consumer, values)
        new = _Pool(consumer, place, Moments(self._samples.worth))
        pool = pools.setdefault(consumer.weight, new)
        if pool.place.how != place.how or not torch.equal(pool.place.kept, place.kept):
            self._out.left[pool.consumer.op.name] = _OTHERWISE
            raise Unsolvable(_OTHERWISE)
        rows = (place.rows(self._staying(consumer, x), consumer.channel) for x in values)
        pairs = ((x, x[:, :, place.kept]) for x in rows)
        place.how.observed(pairs, self._deps, consumer, self._samples, pool.moments)

    def _weight(self, value: Value) -> torch.Tensor:
        """A weight of the narrowed graph, as far as refitted.

        Batch norms that use the samples' statistics keep these; a constant is subtracted from their
        mean.
        """
        if value in self._out.values and value not in self._samples.statistics:
            return self._out.values[value]
        cut = cut_tensor(self._samples.weight(value), self._cuts.weights.get(value, ()))
        return cut + self._shifts[value].to(cut.dtype) if value in self._shifts else cut

    def _read_by(self, consumer: Consumer) -> Dim:
        """The dimension that a consumer sums over."""
        return self._deps.dims[consumer.value][consumer.channel]

    def _reads_fewer(self, op: Op) -> bool:
        """Whether an operation sums over or mixes an axis that needs a refit."""
        effect = self._deps.effects[op]
        return any(self._misses(dim) for dim in [*effect.contracts, *effect.mixes])

    def _misses(self, dim: Dim) -> bool:
        """Whether a dimension holds an axis that loses an index which is not free."""
        return not self._missed.isdisjoint(atoms(dim))

    def _solve_for(self, op: Op) -> None:
        """Refit an operation, or note why not."""
        consumers = self._consumers.by_op.get(op)
        if not consumers:
            contracts = self._deps.effects[op].contracts
            if all(v is None or v.is_weight for v in op.inputs):  # told where its result is read
                return
            several = sum(v is not None for v in op.inputs) > 1
            if op.outputs and several and any(map(self._cuts.touches, contracts)):
                why = self._consumers.left.get(op.name, self._unread(op))
                self._out.left[op.name] = why
            return
        for consumer in consumers:
            if consumer.uses == 1:
                with self._reporting(op):
                    self._solve(consumer)

    def _unread(self, op: Op) -> str:
        """Why an operation that sums over channels has no consumer that reads them."""
        derived = self._deps.source.derived()
        weights = [v for v in op.inputs if v is not None and (v.is_weight or v in derived)]
        return "its weight is no matrix" if weights else "both of its operands are computed"

    @contextmanager
    def _reporting(self, op: Op) -> Iterator[None]:
        """Note an operation as left, with the reason, where its refit fails."""
        try:
            yield
        except Unsolvable as error:
            self._out.left[op.name] = str(error)
        except RuntimeError:  # of which LinAlgError is one
            self._out.left[op.name] = "its equations have no solution in this precision"

    def _solve(self, consumer: Consumer) -> None:
        """Refit a consumer from what it reads in both graphs.

        Raises:
            Unsolvable: The two do not correspond, or the channels are too many.
        """
        dense = consumer.values(self._dense)
        if consumer.value in consumer.op.outputs:  # a recurrent state, known only after the refit
            cut = self._cuts.kept(consumer.value)
            small = [cut_tensor(x, cut) for x in dense]
        elif consumer.runs is not None:  # other rows may go to each matrix in the smaller model
            cut = [None, *self._cuts.kept(consumer.value)]
            small = [cut_tensor(x, cut) for x in dense]
        else:
            small = consumer.values(self._small)
        place, at = self._place(consumer, dense), consumer.channel
        dense = [self._staying(consumer, x) for x in dense]
        pairs = [(place.rows(x, at), place.fewer(y, at)) for x, y in zip(dense, small, strict=True)]
        if any(wanted.shape[:2] != found.shape[:2] for wanted, found in pairs):
            raise Unsolvable("the smaller model reads it at other places than the original")
        moments = place.how.observed(pairs, self._deps, consumer, self._samples)
        kept = place.groups, place.kept
        add_expected(moments, self._deps, self._samples, consumer, place.how, kept)
        self._refit(consumer, place, moments)

    def _staying(self, consumer: Consumer, x: torch.Tensor) -> torch.Tensor:
        """A value of the original with all channels, at the positions that the smaller graph keeps.

        A layer that mixes tokens (MLP-Mixer) reads channels as rows: rows of removed channels have
        no counterpart in the narrowed graph.
        """
        if consumer.runs is not None:
            return x
        kept = self._cuts.kept(consumer.value)
        kept[consumer.channel] = None
        if consumer.beside is not None:
            kept[consumer.beside] = None
        return cut_tensor(x, kept)

    def _place(self, consumer: Consumer, values: Sequence[torch.Tensor]) -> Place:
        """The layout of a consumer's channels, and which of them stay.

        Raises:
            Unsolvable: There are too many channels, or others stay in each group.
        """
        dim = self._read_by(consumer)
        rows = sum(x.numel() // max(x.shape[consumer.channel], 1) for x in values)
        how = layout(consumer, dim, self._cuts, rows)
        if how is None:
            raise Unsolvable(
                f"its {length(dim)} channels are more than {WIDEST}, as many as are solved for"
            )
        groups, channels = kept_channels(consumer, dim, how, self._cuts)
        return Place(how, torch.as_tensor(groups), torch.as_tensor(channels))

    def _refit(self, consumer: Consumer, place: Place, moments: Moments) -> None:
        """Solve the regression, and store its result."""
        old = consumer.numbers()
        exact = old.dtype == torch.float64 or place.how.width < DOUBLE_BELOW
        exact |= old.dtype == torch.complex128
        taps = consumer.taps(widest(old) if exact else singly(old))
        weight = place.how.spread(taps)[place.groups]
        steps = place.steps(consumer, self._cuts)
        shares = place.reach(consumer, self._deps.source.ops) if consumer.shifts else None
        found = refit(weight, moments, place.kept, consumer.shifts, steps, shares)
        if not all(bool(torch.isfinite(part).all()) for part in found if part is not None):
            raise Unsolvable("what it reads is not finite")
        new, constant, scales = found
        if scales is not None:
            self._rescale(consumer, scales)
        self._store(consumer.weight, narrowed(consumer, place.how, place.groups, new, self._cuts))
        if consumer.shifts:
            held, shift = shifted(consumer, place.groups, constant.flatten(), self._cuts)
            written = self._consumers.written.get(held)
            old = held.tensor.detach() if written is None else written.numbers()
            old = cut_tensor(old, self._cuts.kept(held))
            shift = (shift * consumer.gain).reshape(old.shape)
            if held in self._shifts:  # of a layer that holds two biases in one
                shift = shift + self._shifts[held]
            self._shifts[held] = shift
            self._store(held, (widest(old) + shift).to(old.dtype))
        if consumer.computed and not consumer.shifts:
            self._out.unshifted.append(consumer.op.name)

    def _rescale(self, consumer: Consumer, scales: torch.Tensor) -> None:
        """Note new steps of a weight's integers, and of its bias's that are multiples of them."""
        if consumer.step is None:
            return
        share = (scales.double() / consumer.step.tensor.double().flatten()).nan_to_num(1.0)
        for held in (consumer.step, *consumer.follow):
            new = (held.tensor.double().flatten() * share).reshape(held.tensor.shape)
            self._out.values[held] = cut_tensor(new.to(held.tensor), self._cuts.kept(held))
            self._renew(held)

    def _renew(self, value: Value) -> None:
        """Compute anew what the narrowed graph has computed from a weight that changed since.

        Where it no longer holds all operands, they made the weight itself, which is stored anew.
        """
        for op in self._done:
            if value in op.inputs and self._small.holds(op):
                self._small.step(op)

    def _store(self, value: Value, tensor: torch.Tensor) -> None:
        """Note new numbers of a weight or a bias; of one that is computed, what is stored for it.

        It was computed already where the narrowed graph runs.
        """
        written = self._consumers.written.get(value)
        if written is None:
            self._out.values[value] = tensor
            return
        stored, numbers = written.stored_as(tensor, self._cuts, self._weight)
        self._out.values.update(stored)
        if isinstance(written, Grid) and written.moved is not None:  # integers are read
            for held in stored:
                self._renew(held)
        elif not value.is_weight:
            self._small.replace(value, numbers.to(self._dtype))
