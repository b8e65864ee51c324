"""expect: how channels vary together, in closed form, from the weights alone.

The channels of every value are taken for functions of normal ones (`graphprune.statistics.normal`):

1. A linear operation makes W C Wᵀ of covariances C, neighbouring positions taken for independent.
2. Behind a norm a channel's mean and deviation are its offset and gain; correlations stay.
3. What acts on elements is run on the nodes of a quadrature for each channel.
4. What is added or concatenated is taken for independent; what multiplies, for its mean.

It is cruder than a look at inputs, but knows as much of a thousand channels as of ten, where a
few inputs do not. Of what lies many linear operations behind the last picture or norm (where an
export has folded batch norms into weights) it knows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import torch

from graphprune.compensation.consumers import Consumer, Layout, find_consumers
from graphprune.core.axes import leaves
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import LastUses
from graphprune.engine.tensors import as_dtype
from graphprune.rules.facts import (
    Reading,
    adds,
    folded,
    is_blank,
    is_random,
    joins,
    multiplies,
    norm_channel,
    reading,
)
from graphprune.statistics.constants import QUADRATURE_NODES
from graphprune.statistics.moments import Moments
from graphprune.statistics.normal import Flow, Normal, correlated, flow_of, moments_of
from graphprune.statistics.samples import Samples

_ALIKE = 0.9  # correlation of the channels of pictures
_COLOURS = 4  # channels that pictures have at most
_ROUNDING = 1e-3  # of means of equal numbers
_OLDEST = 2  # linear operations behind a norm: those of a gate
_NEGLIGIBLE = 0.01  # of scarcity
_WIDEST = 4096  # channels that are followed
_CONSTANT = 1 << 20  # numbers in what is computed from weights alone
_MOST = 1 << 27  # numbers that all correlations together may take


def expect(
    deps: Dependencies, wanted: Iterable[tuple[Value, int]]
) -> dict[tuple[Value, int], torch.Tensor]:
    """Correlations of channels.

    Args:
        deps: The analysis.
        wanted: Values, and the dimension of each that holds the channels.

    Returns:
        `channels x channels` for each of them of which anything is known.
    """
    graph = deps.source
    uses = LastUses(graph.ops)
    places: dict[Value, set[int]] = {}
    for value, channel in wanted:
        places.setdefault(value, set()).add(channel)
    out: dict[tuple[Value, int], torch.Tensor] = {}
    followed = _Followed(deps)

    def note(value: Value) -> None:
        flow = followed.flows.get(value)
        for channel in places.get(value, ()):
            if flow is None or flow.at != channel % len(value.shape):
                continue
            found = correlated(moments_of(flow).covariance)
            if bool(torch.isfinite(found).all()):
                out[value, channel] = found

    for value in graph.inputs:
        note(value)
    for op in graph.ops:
        followed.step(op)
        for value in op.outputs:
            note(value)
        for read in uses.after(op):
            followed.flows.pop(read, None)
        if sum(x.numel() for x in out.values()) > _MOST:
            break
    return out


def foretell(
    moments: Moments,
    deps: Dependencies,
    samples: Samples,
    consumer: Consumer,
    how: Layout,
    kept: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> None:
    """Let the closed form count where rows are short.

    Args:
        moments: Of what a consumer reads.
        deps: The analysis.
        samples: What the rows are of; keep what is expected.
        consumer: The consumer.
        how: How its channels are solved for.
        kept: Groups that are looked at, and which channels of the original the inputs are.
    """
    if how.before * how.after > 1 or float(moments.scarcity().max()) < _NEGLIGIBLE:
        return
    if samples.expected is None:
        consumers = (one for several in find_consumers(deps).by_op.values() for one in several)
        samples.expected = expect(deps, ((one.source, one.channel) for one in consumers))
    found = samples.expected.get((consumer.source, consumer.channel))
    if found is None or len(found) != how.groups * how.width:
        return
    blocks = found.view(how.groups, how.width, how.groups, how.width)
    blocks = blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)
    if kept is None:
        moments.expect(blocks)
    else:
        moments.expect(blocks[kept[0]], kept[1])


class _Followed:
    """What is known of the values of a graph, operation by operation."""

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._evaluate = deps.source.engine.evaluate
        self.flows: dict[Value, Flow] = {}
        self._constants: dict[Value, torch.Tensor] = {}
        held = (value.tensor for value in deps.source.weights.values())
        self._device = next((t.device for t in held if t is not None), None)
        for value in deps.source.inputs:
            if len(value.shape) > 2 and 1 <= value.shape[1] <= _COLOURS:
                mean = torch.zeros(value.shape[1], device=self._device)
                alike = torch.full((len(mean), len(mean)), _ALIKE, device=self._device)
                self.flows[value] = flow_of(Normal(mean, alike.fill_diagonal_(1.0)), 1)

    def step(self, op: Op) -> None:
        """Follow one operation."""
        try:
            flows = self._followed(op)
        except (RuntimeError, ValueError, IndexError, TypeError):  # it does not run on a table
            return
        for value, flow in zip(op.outputs, flows, strict=False):
            if flow is None or not bool(torch.isfinite(flow.table).all()):
                continue
            if flow.numbers is not None or value.shape[flow.at] == flow.table.shape[1]:
                self.flows[value] = flow

    def _followed(self, op: Op) -> Sequence[Flow | None]:
        """What is known of an operation's results."""
        read = reading(op)
        if isinstance(read, Reading) and read.weight.is_weight and not read.source.is_weight:
            return [self._linear(op, read)]
        channel = norm_channel(op)
        if channel is not None:
            return [self._normalised(op, channel)]
        values = [v for v in op.inputs if v is not None and self._number(v) is None]
        if not values:
            self._note_constant(op)
            return []
        flows = [self.flows[v] for v in values if v in self.flows]
        if not flows or len(flows) < len(values):
            return []
        if any(flow.numbers is not None for flow in flows):
            return self._moved(op, values[0], flows[0]) if len(flows) == 1 else []
        if joins(op):
            return [_joined(flows)]
        if all(flow.base is flows[0].base for flow in flows) and self._alike(op, values):
            return [self._pointwise(op, flows)]
        if adds(op):
            return [_added(flows)]
        if multiplies(op) and len(flows) == 2:
            larger = prod(values[0].shape) >= prod(values[1].shape)
            x, gate = flows if larger else flows[::-1]
            return [Flow(x.base, x.table * moments_of(gate).mean, x.at)]
        return self._moved(op, values[0], flows[0]) if len(flows) == 1 else []

    def _note_constant(self, op: Op) -> None:
        """Compute what hangs on weights alone: a bias that is put together, a gain plus one."""
        small = all(prod(v.shape) <= _CONSTANT for v in [*op.inputs, *op.outputs] if v is not None)
        if small and op.inputs and not is_random(op) and not is_blank(op):
            found = self._results(op, [None if v is None else self._number(v) for v in op.inputs])
            self._constants.update(zip(op.outputs, found, strict=True))

    def _number(self, value: Value) -> torch.Tensor | None:
        """A weight, or what follows from weights alone; None for any other value."""
        if value.is_weight:
            return None if value.tensor is None else _tensor(value)
        return self._constants.get(value)

    def _alike(self, op: Op, values: Sequence[Value]) -> bool:
        """Whether operands and result share all of their dimensions."""
        wanted = [leaves(dim) for dim in self._deps.dims[op.outputs[0]]]
        return all([leaves(dim) for dim in self._deps.dims[v]] == wanted for v in values)

    def _linear(self, op: Op, read: Reading) -> Flow | None:
        """W C Wᵀ, summed over the taps."""
        flow = self.flows.get(read.source)
        if flow is None or flow.at != read.channel % len(read.source.shape):
            return None
        taps = folded(_tensor(read.weight), read.inner, read.groups)
        groups, outputs, channels, _ = taps.shape
        if groups * max(outputs, channels) > _WIDEST or flow.base.age >= _OLDEST:
            return None
        known = moments_of(flow)
        blocks = known.covariance.view(groups, channels, groups, channels)
        half = torch.einsum("goik,gihj->gokhj", taps, blocks)
        covariance = torch.einsum("gokhj,hpjk->gohp", half, taps)
        mean = torch.einsum("goik,gi->go", taps, known.mean.view(groups, channels)).flatten()
        if read.bias is not None:
            added = self._number(read.bias)
            if added is None:  # it hangs on the inputs
                return None
            mean = mean + added.flatten()
        found = Normal(mean, covariance.reshape(len(mean), len(mean)), known.age + 1)
        return flow_of(found, read.output % len(op.outputs[0].shape))

    def _normalised(self, op: Op, channel: int) -> Flow | None:
        """Offset and gain for mean and deviation; what is not known to vary together does not."""
        x, gain, offset = [*op.inputs, None, None][:3]
        assert x is not None
        at = channel % len(x.shape)
        number = x.shape[at]
        if number > _WIDEST or (gain is not None and gain.shape != (number,)):
            return None
        flow = self.flows.get(x)
        rho = torch.eye(number, device=self._device)
        if flow is not None and flow.at == at:
            rho = correlated(moments_of(flow).covariance)
        spread = torch.ones_like(rho[0]) if gain is None else self._number(gain)
        mean = torch.zeros_like(rho[0]) if offset is None else self._number(offset)
        if spread is None or mean is None:
            return None
        return flow_of(Normal(mean, rho * torch.outer(spread, spread)), at)

    def _pointwise(self, op: Op, flows: Sequence[Flow]) -> Flow:
        """The operation, run on the tables of its operands."""
        at, number = flows[0].at, flows[0].table.shape[1]
        shape = [QUADRATURE_NODES, *([1] * (len(op.outputs[0].shape) - 1))]
        shape[at] = number
        rest = iter(flows)
        operands = [
            None
            if v is None
            else next(rest).table.view(shape)
            if v in self.flows
            else self._number(v)
            for v in op.inputs
        ]
        found = self._results(op, operands)[0]
        return Flow(flows[0].base, found.expand(shape).reshape(QUADRATURE_NODES, number), at)

    def _results(self, op: Op, operands: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
        with torch.no_grad():
            return self._evaluate(op, operands, {}, torch.float32)

    def _moved(self, op: Op, value: Value, flow: Flow) -> list[Flow | None]:
        """Channels in another place or order, or some of them: where their numbers arrive."""
        numbers = flow.numbers
        if numbers is None:
            shape = [1] * len(value.shape)
            shape[flow.at] = flow.table.shape[1]
            numbers = torch.arange(shape[flow.at], device=flow.table.device).float().view(shape)
            numbers = numbers.expand(value.shape).contiguous()
        operands = [
            None if v is None else numbers if v is value else self._number(v) for v in op.inputs
        ]
        return [_arrived(flow, x) for x in self._results(op, operands)]


def _arrived(flow: Flow, numbers: torch.Tensor) -> Flow | None:
    """The channels whose numbers lie along one dimension, the same along all others.

    Where they lie along several, as in the middle of a shuffle, the numbers are kept.
    """
    whole = numbers.round()
    most = flow.table.shape[1] - 1
    if not whole.numel() or not torch.allclose(numbers, whole, atol=_ROUNDING):
        return None
    if not 0 <= float(whole.min()) <= float(whole.max()) <= most:
        return None
    for at in range(whole.dim()):
        rows = whole.movedim(at, -1).reshape(-1, whole.shape[at])
        picks = rows[0].long()
        if len(picks) > 1 and bool((rows == rows[0]).all()):
            return _picked(flow, picks, at)
    return Flow(flow.base, flow.table, -1, whole)


def _picked(flow: Flow, picks: torch.Tensor, at: int) -> Flow | None:
    if len(set(picks.tolist())) < len(picks):
        return None
    if len(picks) == flow.table.shape[1] and bool((picks.diff() == 1).all()):
        return Flow(flow.base, flow.table, at)
    covariance = flow.base.covariance[picks][:, picks]
    base = Normal(flow.base.mean[picks], covariance, flow.base.age)
    return Flow(base, flow.table[:, picks], at)


def _tensor(value: Value) -> torch.Tensor:
    return as_dtype(value.tensor.detach(), torch.float32)


def _added(flows: Sequence[Flow]) -> Flow | None:
    if any(flow.at != flows[0].at for flow in flows):
        return None
    terms = [moments_of(flow) for flow in flows]
    mean = torch.stack([term.mean for term in terms]).sum(0)
    covariance = torch.stack([term.covariance for term in terms]).sum(0)
    age = max(term.age for term in terms)
    return flow_of(Normal(mean, covariance, age), flows[0].at)


def _joined(flows: Sequence[Flow]) -> Flow | None:
    if any(flow.at != flows[0].at for flow in flows):
        return None
    if sum(flow.table.shape[1] for flow in flows) > _WIDEST:
        return None
    parts = [moments_of(flow) for flow in flows]
    mean = torch.cat([part.mean for part in parts])
    covariance = mean.new_zeros(len(mean), len(mean))
    start = 0
    for part in parts:
        end = start + len(part.mean)
        covariance[start:end, start:end] = part.covariance
        start = end
    age = max(part.age for part in parts)
    return flow_of(Normal(mean, covariance, age), flows[0].at)
