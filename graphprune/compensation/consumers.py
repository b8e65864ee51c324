"""Consumers: the linear operations that read a group's channels, and so can make up for them.

A consumer computes `y = W x + b` and sums over channels. Which operations those are is read off
the weights of products and convolutions; everything else between two of them is only ever run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np
import torch

from graphprune.core.axes import Dim, leaves, length
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Indices
from graphprune.rules.facts import (
    Reading,
    adds,
    epsilon,
    folded,
    is_batch_norm,
    is_norm,
    reading,
    recurrent,
)

WIDEST = 4096
"""Channels that are solved for at once: the time grows with their cube."""


class Unsolvable(Exception):
    """An operation cannot be made up for: its message is the reason, for the report."""


_DERIVED = "its weight is computed from others, as quantized weights are"


@dataclass(frozen=True, eq=False)
class Consumer:
    """One linear reading of a value.

    Attributes:
        op: The operation.
        source: What it reads; its own result where it is recurrent.
        weight: W; its dimensions are seen as `groups x outputs x channels x taps`.
        bias: b, or None.
        norm: The batch norm that alone reads the result, or None.
        channel: The dimension of `source` that is summed over.
        groups: Groups of a grouped convolution.
        inner: The dimension of `weight` that holds the channels.
        uses: How many operations read through `weight`, all alike.
        computed: Whether the graph adds a bias that it computes, which can take no constant.
    """

    op: Op
    source: Value
    weight: Value
    bias: Value | None
    norm: Op | None
    channel: int
    inner: int
    groups: int = 1
    uses: int = 1
    computed: bool = False

    @property
    def shifts(self) -> bool:
        """Whether a constant can be added to the result."""
        return self.bias is not None or self.norm is not None

    def taps(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight as `groups x outputs x channels x taps`."""
        return folded(weight, self.inner, self.groups)

    def weight_of(self, taps: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor:
        """The inverse of `taps`."""
        taps = taps.reshape(*taps.shape[:3], *kernel)
        if self.weight_is_transposed:
            taps = taps.transpose(1, 2)
        return taps.flatten(0, 1)

    @property
    def weight_is_transposed(self) -> bool:
        """Whether the weight holds channels before outputs."""
        return self.inner == 0

    @property
    def kernel(self) -> tuple[int, ...]:
        """The weight's dimensions behind the first two."""
        return self.weight.shape[2:]

    def gains(self, tensor: Callable[[Value], torch.Tensor]) -> torch.Tensor:
        """By how much the batch norm behind multiplies each output; ones without one.

        Args:
            tensor: Gives the tensor of a weight.
        """
        outputs = self.weight.shape[1 - self.inner] * (self.groups if self.inner == 0 else 1)
        if self.norm is None:
            return torch.ones(outputs, dtype=torch.float64)
        _, gain, _, _, variance = self.norm.inputs[:5]
        assert variance is not None
        scale: torch.Tensor = (tensor(variance).double() + epsilon(self.norm)).rsqrt()
        return scale if gain is None else scale * tensor(gain).double().abs()


@dataclass(frozen=True)
class Layout:
    """How a consumer's channels are solved for: `before x width x after` in each group.

    Before and after count positions that share one solution; mostly they are 1.
    """

    groups: int
    before: int
    width: int
    after: int

    def rows(self, x: torch.Tensor, channel: int) -> torch.Tensor:
        """A value as `groups x rows x channels`, one row for each place it is read at."""
        x = x.movedim(channel, -1)
        x = x.reshape(-1, self.groups, self.before, x.shape[-1] // self._rest, self.after)
        return x.permute(1, 0, 2, 4, 3).flatten(1, 3)

    @property
    def _rest(self) -> int:
        return self.groups * self.before * self.after

    def spread(self, taps: torch.Tensor) -> torch.Tensor:
        """Taps as `groups x outputs x channels x (before * after * taps)`."""
        g, o, i, k = taps.shape
        parts = taps.reshape(g, o, self.before, i // (self.before * self.after), self.after, k)
        return parts.permute(0, 1, 3, 2, 4, 5).flatten(3)

    def gathered(self, spread: torch.Tensor) -> torch.Tensor:
        """The inverse of `spread`."""
        g, o, n, _ = spread.shape
        parts = spread.reshape(g, o, n, self.before, self.after, -1)
        return parts.permute(0, 1, 3, 2, 4, 5).flatten(2, 4)


@dataclass
class Consumers:
    """The consumers of a graph.

    Attributes:
        by_op: Consumers of each operation.
        left: Operations that sum over channels but cannot be solved for, with the reason.
    """

    by_op: dict[Op, list[Consumer]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def find_consumers(deps: Dependencies) -> Consumers:
    """Find every linear operation, but for those whose weight something else uses otherwise."""
    graph = deps.source
    uses = Counter(v for op in graph.ops for v in op.inputs if v is not None)
    users: dict[Value, list[Op]] = {}
    for op in graph.ops:
        for value in op.inputs:
            if value is not None:
                users.setdefault(value, []).append(op)
    out = Consumers()
    derived: set[Value] = set()
    for op in graph.ops:
        if all(v is None or v.is_weight or v in derived for v in op.inputs):
            derived.update(op.outputs)
        reads: Sequence[Reading | str | None] = recurrent(op) or [reading(op)]
        for read in reads:
            found = _consumer(op, read, graph, uses, users)
            if isinstance(found, Consumer):
                out.by_op.setdefault(op, []).append(found)
            elif found:
                out.left[op.name] = found
            elif isinstance(read, Reading) and read.weight in derived:
                out.left[op.name] = _DERIVED
    _leave_mixed(out, uses)
    return out


def _leave_mixed(out: Consumers, uses: Counter[Value]) -> None:
    """Leave those alone whose weight, bias or norm something uses that is no consumer like them."""
    held: dict[Value, list[Consumer]] = {}
    for several in out.by_op.values():
        for consumer in several:
            held.setdefault(consumer.weight, []).append(consumer)
    mixed = {weight for weight, alike in held.items() if not _alike(alike, uses)}
    for op, several in list(out.by_op.items()):
        if any(consumer.weight in mixed for consumer in several):
            out.left[op.name] = "its weight serves several operations"
        out.by_op[op] = [consumer for consumer in several if consumer.weight not in mixed]
        if not out.by_op[op]:
            del out.by_op[op]


def _alike(several: Sequence[Consumer], uses: Counter[Value]) -> bool:
    """Whether all uses of a weight are these consumers, which read through it in one way."""
    means = [None if c.norm is None else c.norm.inputs[3] for c in several]
    ways = {(c.inner, c.groups, c.bias, mean) for c, mean in zip(several, means, strict=True)}
    (_, _, bias, _), *others = ways
    return not others and all(
        value is None or uses[value] == len(several) for value in (several[0].weight, bias)
    )


def _consumer(
    op: Op,
    read: Reading | str | None,
    graph: Graph,
    uses: Counter[Value],
    users: dict[Value, list[Op]],
) -> Consumer | str | None:
    """The consumer that an operation is, or why it is none though it sums over channels."""
    if not isinstance(read, Reading):
        return read
    x, weight = read.source, read.weight
    if len(x.shape) < 2 or x.is_weight:
        return None
    if not weight.is_weight:
        return None if read.product else "its weight is computed"
    if weight.kind != "parameter" or len(weight.shape) < 2:
        return None
    if read.product and len(weight.shape) > 2:
        return "its weight holds several matrices"
    if read.windows and len(x.shape) != len(weight.shape):
        return "its input has no batch"
    bias = read.bias or _added_behind(op, read, graph, uses, users)
    computed = bias is not None and (bias.kind != "parameter" or len(bias.shape) != 1)
    held = None if computed else bias
    norm = _norm_behind(op, read, graph, uses, users)
    at, inner = read.channel, read.inner
    return Consumer(op, x, weight, held, norm, at, inner, read.groups, uses[weight], computed)


def _reader_behind(op: Op, graph: Graph, users: dict[Value, list[Op]]) -> Op | None:
    """The operation that alone reads an operation's result."""
    (result,) = op.outputs
    readers = users.get(result, [])
    return readers[0] if len(readers) == 1 and result not in graph.outputs else None


def _added_behind(
    op: Op, read: Reading, graph: Graph, uses: Counter[Value], users: dict[Value, list[Op]]
) -> Value | None:
    """The bias that an operation of its own adds to a product."""
    last = len(op.outputs[0].shape) - 1
    if not read.ends or read.output not in (-1, last):
        return None
    behind = _reader_behind(op, graph, users)
    if behind is None or not adds(behind) or len(behind.inputs) != 2:
        return None
    (result,) = op.outputs
    for value in behind.inputs:
        if value is not None and value.kind == "parameter" and uses[value] == uses[read.weight]:
            return value if value.shape == result.shape[-1:] else None
    return None


def _norm_behind(
    op: Op, read: Reading, graph: Graph, uses: Counter[Value], users: dict[Value, list[Op]]
) -> Op | None:
    """The batch norm that alone reads an operation's result, its statistics its own."""
    norm = _reader_behind(op, graph, users) if read.ends else None
    result = op.outputs[0]
    if norm is None or not is_batch_norm(norm) or norm.inputs[0] is not result:
        return None
    if read.output % len(result.shape) != 1:
        return None
    mean, variance = norm.inputs[3:5]
    if mean is None or variance is None or uses[mean] != uses[variance]:
        return None
    return norm if uses[mean] == uses[read.weight] else None


def layout(consumer: Consumer, dim: Dim, cuts: Cuts | None, rows: int) -> Layout | None:
    """How to solve for a consumer's channels, or None where they are too many.

    Where rows are few, positions of a flattened picture share one solution; not where some of the
    positions go, or each head loses other channels.

    Args:
        consumer: The consumer.
        dim: The dimension of its source that it sums over.
        cuts: What was narrowed; None for the widths of the original.
        rows: How many rows of statistics there are.
    """
    size = length(dim)
    if consumer.groups > 1:
        return Layout(consumer.groups, 1, size // consumer.groups, 1)
    factors = leaves(dim)
    most = min(WIDEST, max(rows // 2, 256))
    together = Layout(1, 1, size, 1) if size <= WIDEST else None
    if size <= most or len(factors) == 1:
        return together
    sizes = [axis.size for axis in factors]
    widest = int(np.argmax([axis.size if axis.reason is None else 0 for axis in factors]))
    others = [(axis,) for i, axis in enumerate(factors) if i != widest]
    if sizes[widest] > WIDEST or (
        cuts is not None and any(cuts.touches(other) for other in others)
    ):
        return together
    return Layout(1, prod(sizes[:widest]), sizes[widest], prod(sizes[widest + 1 :]))


def kept_channels(consumer: Consumer, dim: Dim, how: Layout, cuts: Cuts) -> tuple[Indices, Indices]:
    """Groups and channels of a layout that stay.

    Returns:
        Numbers of the groups, and of the channels within each.

    Raises:
        Unsolvable: Different channels stay in different groups.
    """
    kept = cuts.kept(consumer.source)[consumer.channel]
    if kept is None:
        kept = np.arange(length(dim))
    places = kept.reshape(-1)
    group, rest = np.divmod(places, how.before * how.width * how.after)
    channel = rest // how.after % how.width
    groups, channels = np.unique(group), np.unique(channel)
    if len(groups) * len(channels) * how.before * how.after != len(places):
        raise Unsolvable("other channels stay in each of its groups")
    return groups, channels


def untrained(deps: Dependencies) -> bool:
    """Whether every normalisation layer is as it was initialised, there being any."""
    held = [
        value.tensor
        for op in deps.source.ops
        if is_norm(op)
        for value in op.inputs[1:]
        if value is not None and value.is_weight
    ]
    return bool(held) and all(bool((t == t.flatten()[0]).all()) for t in held if t.numel())
