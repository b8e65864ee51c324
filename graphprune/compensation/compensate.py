"""compensate: let the weights that stay make up for the channels that go.

The original and the narrowed graph run side by side over the samples, operation by operation.
Where a linear operation reads channels that differ between the two, its weights are solved for:

    W ← W_dense B,  b ← b + W_dense (μ_dense - B μ_kept),
    B = argmin E|x_dense - B x_kept - c|²

The target is the original's activation, so that errors do not add up from layer to layer. B is
drawn towards the plain removal of channels where the samples tell little. Where a result takes
no constant (no bias, no batch norm behind), the fit goes through zero. Where only channels go that
are zero for every input, weights stay as they were cut. Weights that serve several
operations alike are solved for first, from what all of these read in the original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from graphprune.compensation.consumers import (
    WIDEST,
    Consumer,
    Layout,
    Unsolvable,
    find_consumers,
    kept_channels,
    layout,
)
from graphprune.compensation.expect import foretell
from graphprune.compensation.refit import refit
from graphprune.core.axes import Axis, Dim, atoms, length
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.engine.run import Attrs, Run, given_inputs, resized
from graphprune.engine.tensors import cut_tensor
from graphprune.importance.free import free
from graphprune.statistics.moments import Moments, observed
from graphprune.statistics.samples import Samples, walk

_OTHERWISE = "operations that share its weight read it otherwise"
_WIDE = 512  # channels, from which on float32 is precise enough beside the damping


@dataclass
class Compensation:
    """New values for the weights of a narrowed graph.

    Attributes:
        values: Tensors in the narrowed shapes.
        left: Operations that read fewer channels and were left as they are, with the reason.
        unshifted: Operations that were solved for without a constant, as their bias is computed.
    """

    values: dict[Value, torch.Tensor] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    unshifted: list[str] = field(default_factory=list)


def compensate(
    cuts: Cuts, samples: Samples, advance: Callable[[float], None] = lambda _: None
) -> Compensation:
    """Solve for the weights that stay.

    Args:
        cuts: The narrowed graph.
        samples: Inputs to take statistics from.
        advance: Called with the share of the work that is done.
    """
    return _Compensator(cuts, samples).run(advance)


@dataclass(frozen=True)
class _Place:
    """Where a consumer's channels are, and which stay.

    Attributes:
        how: How they are solved for.
        groups: Those of its groups that stay.
        kept: The channels within each that stay.
    """

    how: Layout
    groups: torch.Tensor
    kept: torch.Tensor

    def rows(self, x: torch.Tensor, channel: int) -> torch.Tensor:
        """A value of the original, `groups x rows x channels`."""
        return self.how.rows(x, channel)[self.groups]

    def fewer(self, x: torch.Tensor, channel: int) -> torch.Tensor:
        """A value of the narrowed graph, `groups x rows x kept`."""
        return replace(self.how, groups=len(self.groups)).rows(x, channel)


@dataclass(frozen=True)
class _Pool:
    """What the operations read that share a weight; the first of them stands for all."""

    consumer: Consumer
    place: _Place
    moments: Moments


def _missed(cuts: Cuts) -> set[Axis]:
    """Axes that lose more than what changes nothing: only these are to be made up for."""
    nothing = free(cuts.deps, cuts.keep)
    return {
        axis
        for axis, kept in cuts.keep.items()
        if axis not in nothing or not np.delete(nothing[axis], kept).all()
    }


class _Compensator:
    def __init__(self, cuts: Cuts, samples: Samples) -> None:
        self._cuts = cuts
        self._deps = cuts.deps
        self._consumers = find_consumers(cuts.deps)
        self._missed = _missed(cuts)
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

    def _started(self, weights: Callable[[Value], torch.Tensor], attrs: Attrs) -> Run:
        graph = self._deps.source
        given = [given_inputs(graph, chunk, self._dtype) for chunk in self._samples.chunks]
        return Run(graph, weights, given, attrs, self._dtype)

    def run(self, advance: Callable[[float], None]) -> Compensation:
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
            advance((number + 1) / len(ops))
        return self._out

    def _solve_shared(self) -> None:
        """Solve for weights that serve several operations, from what these read in the original.

        What they will read in the narrowed graph hangs on the weights themselves.
        """
        shared = {
            op: [c for c in held if c.uses > 1 and self._misses(self._read_by(c))]
            for op, held in self._consumers.by_op.items()
        }
        if not any(shared.values()):
            return
        pools: dict[Value, _Pool] = {}
        for op, run in walk(self._deps, self._samples, self._dtype):
            for consumer in shared.get(op, ()):
                with self._reporting(op):
                    self._pool(consumer, run.values(consumer.source), pools)
        for pool in pools.values():
            if pool.consumer.op.name not in self._out.left:
                with self._reporting(pool.consumer.op):
                    self._refit(pool.consumer, pool.place, pool.moments)

    def _pool(
        self, consumer: Consumer, values: Sequence[torch.Tensor], pools: dict[Value, _Pool]
    ) -> None:
        """Add what an operation reads to the moments of its weight."""
        place = self._place(consumer, values)
        new = _Pool(consumer, place, Moments(self._samples.worth))
        pool = pools.setdefault(consumer.weight, new)
        if pool.place.how != place.how or not torch.equal(pool.place.kept, place.kept):
            self._out.left[pool.consumer.op.name] = _OTHERWISE
            raise Unsolvable(_OTHERWISE)
        rows = (place.rows(self._staying(consumer, x), consumer.channel) for x in values)
        pairs = ((x, x[:, :, place.kept]) for x in rows)
        observed(pairs, self._samples.size, into=pool.moments)

    def _weight(self, value: Value) -> torch.Tensor:
        """A weight of the narrowed graph as the samples should meet it."""
        if value in self._out.values and value not in self._samples.statistics:
            return self._out.values[value]
        cut = cut_tensor(self._samples.weight(value), self._cuts.weights.get(value, ()))
        return cut + self._shifts[value].to(cut.dtype) if value in self._shifts else cut

    def _read_by(self, consumer: Consumer) -> Dim:
        return self._deps.dims[consumer.source][consumer.channel]

    def _reads_fewer(self, op: Op) -> bool:
        effect = self._deps.effects[op]
        return any(self._misses(dim) for dim in [*effect.contracts, *effect.mixes])

    def _misses(self, dim: Dim) -> bool:
        """Whether a dimension loses indices that are not zero for every input."""
        return not self._missed.isdisjoint(atoms(dim))

    def _solve_for(self, op: Op) -> None:
        consumers = self._consumers.by_op.get(op)
        if not consumers:
            contracts = self._deps.effects[op].contracts
            if op.outputs and len(op.inputs) > 1 and any(map(self._cuts.touches, contracts)):
                why = self._consumers.left.get(op.name, "both of its operands are computed")
                self._out.left[op.name] = why
            return
        for consumer in consumers:
            if consumer.uses == 1:
                with self._reporting(op):
                    self._solve(consumer)

    @contextmanager
    def _reporting(self, op: Op) -> Iterator[None]:
        """Leave an operation as it is where it cannot be solved for."""
        try:
            yield
        except Unsolvable as error:
            self._out.left[op.name] = str(error)
        except RuntimeError:  # of which LinAlgError is one
            self._out.left[op.name] = "its equations have no solution in this precision"

    def _solve(self, consumer: Consumer) -> None:
        dense = self._dense.values(consumer.source)
        if consumer.source in consumer.op.outputs:  # recurrent: what stays will be as it was
            cut = self._cuts.kept(consumer.source)
            small = [cut_tensor(x, cut) for x in dense]
        else:
            small = self._small.values(consumer.source)
        place, at = self._place(consumer, dense), consumer.channel
        dense = [self._staying(consumer, x) for x in dense]
        pairs = [(place.rows(x, at), place.fewer(y, at)) for x, y in zip(dense, small, strict=True)]
        if any(wanted.shape[:2] != found.shape[:2] for wanted, found in pairs):
            raise Unsolvable("the smaller model reads it at other places than the original")
        moments = observed(pairs, self._samples.size, Moments(self._samples.worth))
        kept = place.groups, place.kept
        foretell(moments, self._deps, self._samples, consumer, place.how, kept)
        self._refit(consumer, place, moments)

    def _staying(self, consumer: Consumer, x: torch.Tensor) -> torch.Tensor:
        """A value of the original where the narrowed graph reads it still, with all channels.

        What mixes tokens reads channels that go as rows: those have nothing to be fitted to.
        """
        kept = self._cuts.kept(consumer.source)
        kept[consumer.channel] = None
        return cut_tensor(x, kept)

    def _place(self, consumer: Consumer, values: Sequence[torch.Tensor]) -> _Place:
        """Where a consumer's channels are in what it reads, and which of them stay."""
        dim = self._read_by(consumer)
        rows = sum(x.numel() // max(x.shape[consumer.channel], 1) for x in values)
        how = layout(consumer, dim, self._cuts, rows)
        if how is None:
            raise Unsolvable(
                f"its {length(dim)} channels are more than {WIDEST}, as many as are solved for"
            )
        groups, channels = kept_channels(consumer, dim, how, self._cuts)
        return _Place(how, torch.as_tensor(groups), torch.as_tensor(channels))

    def _refit(self, consumer: Consumer, place: _Place, moments: Moments) -> None:
        """Solve for a weight, and store it."""
        old = consumer.weight.tensor.detach()
        exact = old.dtype == torch.float64 or place.how.width < _WIDE
        taps = consumer.taps(old.double() if exact else old.float())
        weight = place.how.spread(taps)[place.groups]
        found = refit(weight, moments, place.kept, consumer.shifts)
        if not all(bool(torch.isfinite(part).all()) for part in found):
            raise Unsolvable("what it reads is not finite")
        self._apply(consumer, place.how, place.groups, *found)
        if consumer.computed and not consumer.shifts:
            self._out.unshifted.append(consumer.op.name)

    def _apply(
        self,
        consumer: Consumer,
        how: Layout,
        groups: torch.Tensor,
        new: torch.Tensor,
        added: torch.Tensor,
    ) -> None:
        """Store the solved weights, cut to the outputs that stay."""
        old = consumer.weight.tensor
        kept: list[object] = list(self._cuts.weights.get(consumer.weight, [None] * old.dim()))
        outputs = self._outputs_within(consumer, groups)
        weight = consumer.weight_of(how.gathered(new), consumer.kernel)
        kept[consumer.inner] = None
        if consumer.inner == 1:
            kept[0] = outputs
        self._out.values[consumer.weight] = cut_tensor(weight, kept).to(old.dtype).contiguous()
        if consumer.shifts:
            self._shift(consumer, added.flatten(), outputs)

    def _outputs_within(self, consumer: Consumer, groups: torch.Tensor) -> torch.Tensor | None:
        """Positions of the outputs that stay among those of the groups that stay."""
        dim = 0 if consumer.inner == 1 else 1
        kept = self._cuts.weights.get(consumer.weight, [None, None])[dim]
        if kept is None or consumer.groups == 1 or consumer.inner == 0:
            return None if kept is None else torch.as_tensor(kept)
        each = consumer.weight.shape[0] // consumer.groups
        places = torch.full((consumer.groups,), -1)
        places[groups] = torch.arange(len(groups))
        index = torch.as_tensor(kept)
        return places[index // each] * each + index % each

    def _shift(self, consumer: Consumer, added: torch.Tensor, outputs: torch.Tensor | None) -> None:
        """Add a constant to every output, through the bias or the batch norm behind."""
        if outputs is not None:
            if consumer.inner == 0 and consumer.groups > 1:  # the same of each group
                each = consumer.weight.shape[1]
                starts = torch.arange(0, len(added), each)
                outputs = (starts[:, None] + outputs).flatten()
            added = added[outputs.to(added.device)]
        if consumer.bias is not None:
            held, sign = consumer.bias, 1.0
        else:
            assert consumer.norm is not None and consumer.norm.inputs[3] is not None
            held, sign = consumer.norm.inputs[3], -1.0
        old = cut_tensor(held.tensor.detach(), self._cuts.weights.get(held, ()))
        self._shifts[held] = sign * added
        self._out.values[held] = (old.double() + sign * added).to(old.dtype)
