"""expect: correlations of channels in closed form, from the weights alone.

A covariance of 1,000 channels taken from a few inputs is mostly noise. The weights tell a rougher
one that has none. Every channel is treated as a function of a normal channel
(`graphprune.statistics.normal`), and the graph is followed operation by operation:

1. Linear: covariance C becomes Σ_taps W C Wᵀ. Neighbouring positions are treated as independent.
2. Normalisation: means and standard deviations become the stored offsets and gains, as they are on
   the training data. Correlations stay.
3. Elementwise: the operation runs on the quadrature's nodes of each channel.
4. Sums and concatenations: terms are treated as independent. Products with a gate: the gate is
   replaced by its mean.

More than `OLDEST` linear operations after the last norm or picture, errors are too large, and
nothing is known. (That is so throughout where an export has folded the batch norms into the
weights.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import torch

from graphprune.compensation.constants import (
    COLOUR_CORRELATION,
    CONSTANT_MOST,
    CORRELATIONS_MOST,
    FOLLOWED_MOST,
    OLDEST,
    SCARCITY_LEAST,
)
from graphprune.compensation.consumer import Consumer
from graphprune.compensation.consumers import find_consumers
from graphprune.compensation.flows import added, arrived, joined
from graphprune.compensation.layout import Layout
from graphprune.core.axes import leaves
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import LastUses
from graphprune.engine.tensors import as_dtype
from graphprune.rules.facts import adds, is_blank, is_random, joins, multiplies
from graphprune.rules.readings import Reading, folded, reading
from graphprune.rules.scalings import norm_channel
from graphprune.statistics.constants import COLOURS_MOST, QUADRATURE_NODES
from graphprune.statistics.moments import Moments
from graphprune.statistics.normal import Flow, Normal, correlated, flow_of, moments_of
from graphprune.statistics.samples import Samples


def expect(
    deps: Dependencies, wanted: Iterable[tuple[Value, int]]
) -> dict[tuple[Value, int], torch.Tensor]:
    """Correlations of the channels of some values.

    Args:
        deps: The analysis.
        wanted: Values, each with its dimension that holds the channels.

    Returns:
        `channels x channels` for each value of which anything is known.
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
        if sum(x.numel() for x in out.values()) > CORRELATIONS_MOST:
            break
    return out


def add_expected(
    moments: Moments,
    deps: Dependencies,
    samples: Samples,
    consumer: Consumer,
    how: Layout,
    kept: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> None:
    """Add the correlations in closed form to moments whose rows are scarce.

    They are computed once for all consumers, when they are first needed, and kept in
    `samples.expected`.

    Args:
        moments: The moments of a consumer's input.
        deps: The analysis.
        samples: The samples that the rows are from.
        consumer: The consumer.
        how: The layout of its channels.
        kept: Groups of the layout that stay, and the channels that stay in each; None where the
            inputs are all channels.
    """
    if how.before * how.after > 1 or float(moments.scarcity().max()) < SCARCITY_LEAST:
        return
    if samples.expected is None:
        consumers = (one for several in find_consumers(deps).by_op.values() for one in several)
        samples.expected = expect(deps, ((one.value, one.channel) for one in consumers))
    found = samples.expected.get((consumer.value, consumer.channel))
    if found is None or len(found) != how.groups * how.width:
        return
    blocks = found.view(how.groups, how.width, how.groups, how.width)
    blocks = blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)
    if kept is None:
        moments.expect(blocks)
    else:
        moments.expect(blocks[kept[0]], kept[1])


class _Followed:
    """What is known of the values of a graph, operation by operation.

    Attributes:
        flows: The channels of each value that is known and still needed.
    """

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._evaluate = deps.source.engine.evaluate
        self.flows: dict[Value, Flow] = {}
        self._constants: dict[Value, torch.Tensor] = {}
        held = (value.tensor for value in deps.source.weights.values())
        self._device = next((t.device for t in held if t is not None), None)
        for value in deps.source.inputs:
            if len(value.shape) > 2 and 1 <= value.shape[1] <= COLOURS_MOST:
                mean = torch.zeros(value.shape[1], device=self._device)
                alike = torch.full((len(mean), len(mean)), COLOUR_CORRELATION, device=self._device)
                self.flows[value] = flow_of(Normal(mean, alike.fill_diagonal_(1.0)), 1)

    def step(self, op: Op) -> None:
        """Follow one operation; its results stay unknown where no rule applies."""
        try:
            flows = self._followed(op)
        except (RuntimeError, ValueError, IndexError, TypeError):  # it cannot run on tables
            return
        for value, flow in zip(op.outputs, flows, strict=False):
            if flow is None or not bool(torch.isfinite(flow.table).all()):
                continue
            if flow.numbers is not None or value.shape[flow.at] == flow.table.shape[1]:
                self.flows[value] = flow

    def _followed(self, op: Op) -> Sequence[Flow | None]:
        """The flows of an operation's results, None for a result that is not known."""
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
            return [joined(flows)]
        if all(flow.base is flows[0].base for flow in flows) and self._alike(op, values):
            return [self._pointwise(op, flows)]
        if adds(op):
            return [added(flows)]
        if multiplies(op) and len(flows) == 2:
            larger = prod(values[0].shape) >= prod(values[1].shape)
            x, gate = flows if larger else flows[::-1]
            return [Flow(x.base, x.table * moments_of(gate).mean, x.at)]
        return self._moved(op, values[0], flows[0]) if len(flows) == 1 else []

    def _note_constant(self, op: Op) -> None:
        """Evaluate an operation of weights alone: a bias put together from parts, 1 + gain."""
        values = [v for v in (*op.inputs, *op.outputs) if v is not None]
        small = all(prod(v.shape) <= CONSTANT_MOST for v in values)
        if small and op.inputs and not is_random(op) and not is_blank(op):
            found = self._results(op, [None if v is None else self._number(v) for v in op.inputs])
            self._constants.update(zip(op.outputs, found, strict=True))

    def _number(self, value: Value) -> torch.Tensor | None:
        """The tensor of a weight, or of a value computed from weights alone; None otherwise."""
        if value.is_weight:
            return _tensor(value) if value.is_readable else None
        return self._constants.get(value)

    def _alike(self, op: Op, values: Sequence[Value]) -> bool:
        """Whether operands and result have the same axes in all dimensions: elementwise."""
        wanted = [leaves(dim) for dim in self._deps.dims[op.outputs[0]]]
        return all([leaves(dim) for dim in self._deps.dims[v]] == wanted for v in values)

    def _linear(self, op: Op, read: Reading) -> Flow | None:
        """Mean Σ_taps W m + b and covariance Σ_taps W C Wᵀ; `age` grows by one."""
        flow = self.flows.get(read.source)
        if flow is None or flow.at != read.channel % len(read.source.shape):
            return None
        taps = folded(_tensor(read.weight), read.inner, read.groups)
        groups, outputs, channels, _ = taps.shape
        if groups * max(outputs, channels) > FOLLOWED_MOST or flow.base.age >= OLDEST:
            return None
        known = moments_of(flow)
        blocks = known.covariance.view(groups, channels, groups, channels)
        half = torch.einsum("goik,gihj->gokhj", taps, blocks)
        covariance = torch.einsum("gokhj,hpjk->gohp", half, taps)
        mean = torch.einsum("goik,gi->go", taps, known.mean.view(groups, channels)).flatten()
        if read.bias is not None:
            bias = self._number(read.bias)
            if bias is None:  # it depends on the inputs
                return None
            mean = mean + bias.flatten()
        found = Normal(mean, covariance.reshape(len(mean), len(mean)), known.age + 1)
        return flow_of(found, read.output % len(op.outputs[0].shape))

    def _normalised(self, op: Op, channel: int) -> Flow | None:
        """Means and standard deviations from offset and gain; unknown correlations are zero."""
        x, gain, offset = [*op.inputs, None, None][:3]
        assert x is not None
        at = channel % len(x.shape)
        number = x.shape[at]
        if number > FOLLOWED_MOST or (gain is not None and gain.shape != (number,)):
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
        """The flow after an elementwise operation, which runs on its operands' tables.

        Args:
            op: The operation.
            flows: The flows of those operands that are not constant; all have one base.
        """
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
        """The flow after an operation that moves or selects channels, such as a permutation.

        The operation runs on the numbers of the channels; where these arrive tells which channel is
        where.
        """
        numbers = flow.numbers
        if numbers is None:
            shape = [1] * len(value.shape)
            shape[flow.at] = flow.table.shape[1]
            numbers = torch.arange(shape[flow.at], device=flow.table.device).float().view(shape)
            numbers = numbers.expand(value.shape).contiguous()
        operands = [
            None if v is None else numbers if v is value else self._number(v) for v in op.inputs
        ]
        return [arrived(flow, x) for x in self._results(op, operands)]


def _tensor(value: Value) -> torch.Tensor:
    return as_dtype(value.tensor.detach(), torch.float32)
