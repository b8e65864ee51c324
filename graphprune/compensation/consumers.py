"""Consumers: the linear operations whose weights can make up for the channels that are removed.

A consumer computes `y = W x + b` and sums over the channels of x: linear layers, convolutions,
products with a weight, recurrent cells. `graphprune.rules.readings.reading` tells from an
operation's rule whether it is one. Whatever lies between two consumers is only run, never changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from graphprune.compensation.behind import (
    Around,
    added_behind,
    constant,
    norm_behind,
    own_steps,
    scaled_behind,
)
from graphprune.compensation.consumer import Consumer
from graphprune.compensation.forms import Written
from graphprune.compensation.grid import Grid, whole
from graphprune.compensation.packed import Packed, matrix
from graphprune.compensation.written import written
from graphprune.core.effect import Encoding
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.rules.readings import (
    Reading,
    encoded_reading,
    of_several,
    recurrent,
    stacked,
)
from graphprune.rules.registry import stated
from graphprune.rules.scalings import is_norm

_DERIVED = "its weight is computed from others"
_SEVERAL = "its weight holds several matrices"
_STEPS = "the steps of its weight's integers are computed, or differ where it is read"


@dataclass
class Consumers:
    """The consumers of a graph.

    Attributes:
        by_op: Consumers of each operation.
        left: Names of operations that sum over channels but cannot be solved for, with the reason.
        written: Weights and biases that are computed from stored ones, as they are written.
    """

    by_op: dict[Op, list[Consumer]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    written: dict[Value, Written] = field(default_factory=dict)

    @property
    def weights(self) -> set[Value]:
        """The stored weights of all consumers."""
        held = (consumer.weight for several in self.by_op.values() for consumer in several)
        return {weight for weight in held if weight.is_weight}


def find_consumers(deps: Dependencies) -> Consumers:
    """Find every linear operation whose weight no other operation uses in another way."""
    graph = deps.source
    known = written(deps)
    out = Consumers(written=known.written)
    around = Around.of(graph, known)
    derived = graph.derived()
    for op in graph.ops:
        reads: Sequence[Reading | str | None] = recurrent(op) or [encoded_reading(op)]
        for read in reads:
            found = _consumer(op, read, around)
            if isinstance(found, Consumer):
                out.by_op.setdefault(op, []).append(found)
            elif found:
                out.left[op.name] = found
            elif isinstance(read, Reading) and read.weight in derived:
                out.left[op.name] = _DERIVED
            elif stated(op).linear and any(v in derived for v in op.inputs):
                out.left[op.name] = _SEVERAL
        layers = [_stacked(op, read, around) for read in stacked(op)]
        if (part := of_several(op)) is not None:
            layers = [_several(op, part, around)]
        if (packed := matrix(op, deps.effects[op].packed)) is not None:
            layers = [_packed(op, packed, around, out)]
        if any(layers):
            out.left.pop(op.name, None)
            out.by_op.setdefault(op, []).extend(layer for layer in layers if layer is not None)
    _leave_mixed(out, around.uses)
    return out


def held_beside(consumers: Iterable[Consumer]) -> set[Value]:
    """What a run must hold for `Consumer.values`: steps of integers that are computed."""
    told = (one.encoding for one in consumers)
    return {v for how in told if how is not None for v in how.held if not v.is_weight}


def _stacked(op: Op, read: Reading, around: Around) -> Consumer | None:
    """A recurrent layer of a file as a consumer, of its input or of its own states."""
    uses, how = around.uses, read.encodings.get(read.weight)
    if how is not None and not _as_integers(read.weight, how, around):
        return None
    if read.weight.kind != "parameter" or read.source.is_weight:
        return None
    half = 1 if read.source in op.outputs else 0
    bias = next((v for v in op.inputs if v is not None and _two_biases(v, read)), None)
    free = bias is None or (bias.kind == "parameter" and uses[bias] == uses[read.weight])
    return Consumer(
        op, read.source, read.weight, bias if free else None, None, read.channel, read.inner,
        1 if read.beside is None else read.weight.shape[0],
        uses=uses[read.weight], computed=not free, stack=0, half=half, beside=read.beside,
        written=around.computed.get(read.weight), step=own_steps(read, bias, around)[0],
    )  # fmt: skip


def _several(op: Op, read: Reading, around: Around) -> Consumer | None:
    """A product with a weight that holds several matrices as a consumer."""
    held = around.computed.get(read.weight)
    if (read.weight.kind != "parameter" and held is None) or read.source.is_weight:
        return None
    assert read.stack is not None
    apart = read.beside is not None or read.runs is not None
    return Consumer(
        op, read.source, read.weight, None, None, read.channel - len(read.source.shape), read.inner,
        read.weight.shape[read.stack] if apart else 1, uses=around.uses[read.weight],
        computed=read.joined, written=held, stack=read.stack, beside=read.beside, runs=read.runs,
    )  # fmt: skip


def _packed(op: Op, held: Packed, around: Around, out: Consumers) -> Consumer | None:
    """A product with a matrix of few bits as a consumer."""
    x, weight, uses = op.inputs[0], held.how.matrix, around.uses
    if x is None or x.is_weight or uses[held.held] != 1:
        return None
    read = Reading(x, held.held, None, len(x.shape) - 1, 1, -1)
    bias = held.how.bias or added_behind(op, read, around)
    free = bias is None or (constant(bias, around.computed) and uses[bias] == 1)
    out.written[weight], uses[weight] = held, 1
    step = held.how.scale
    return Consumer(
        op, x, weight, bias if free else None, None, read.channel, 1, computed=not free,
        written=held, step=step if uses[step] == 1 else None,
    )  # fmt: skip


def _two_biases(value: Value, read: Reading) -> bool:
    directions, outputs = read.weight.shape[0], read.weight.shape[3 - read.inner]
    return value.is_weight and value.shape == (directions, 2 * outputs)


def _leave_mixed(out: Consumers, uses: Counter[Value]) -> None:
    """Drop consumers whose weight, bias or batch norm is also used in another way."""
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
    """Whether these consumers are all uses of their weight, and use it in the same way."""
    means = [None if c.norm is None else c.norm.inputs[3] for c in several]
    ways = {(c.inner, c.groups, c.bias, mean) for c, mean in zip(several, means, strict=True)}
    (_, _, bias, _), *others = ways
    return not others and all(
        value is None or uses[value] == len(several) for value in (several[0].weight, bias)
    )


def _consumer(op: Op, read: Reading | str | None, around: Around) -> Consumer | str | None:
    """The consumer that a linear reading is.

    Returns:
        A reason where it sums over channels but cannot be solved for; None where it is not linear
        in channels.
    """
    if not isinstance(read, Reading):
        return read
    same = around.same
    if read.weight in same:
        told = {same.get(value, value): how for value, how in read.encodings.items()}
        read = replace(read, weight=same[read.weight], encodings=told)
    x, weight = read.source, read.weight
    if len(x.shape) < 2 or x.is_weight:
        return None
    how, last = read.encodings.get(x), op
    if how is not None and not how.scales:  # what makes the integers may know their steps
        how = around.made.get(x, how)
    if (steps := read.encodings.get(weight)) is not None:
        if not steps.scales and how is not None and read.ends:
            behind = scaled_behind(op, read, how, around)
            theirs, last = behind or ((), op)
            steps = replace(steps, scales=theirs)
        if not _as_integers(weight, steps, around):
            return None if read.product else _STEPS
    held = around.computed.get(weight)
    if not weight.is_weight and held is None:
        return None if read.product else "its weight is computed"
    if (weight.kind != "parameter" and held is None) or len(weight.shape) < 2:
        return None
    if read.product and len(weight.shape) > 2:
        return _SEVERAL
    if read.windows and len(x.shape) != len(weight.shape):
        return "its input has no batch"
    alpha, beta = read.factors
    bias = read.bias
    if bias is None:
        bias, beta = added_behind(last, read, around) if read.ends else None, 1.0
    how_bias = None if bias is None else read.encodings.get(bias)
    known = bias is None or how_bias is None or _as_integers(bias, how_bias, around)
    free = bias is None or (known and constant(bias, around.computed))
    return Consumer(
        op, x, weight, bias if free else None, norm_behind(op, read, around), read.channel,
        read.inner, read.groups, around.uses[weight], not free or read.joined, held, how,
        around.computed.get(bias) if bias is not None else None, alpha / beta,
        *own_steps(read, bias, around),
    )  # fmt: skip


def _as_integers(stored: Value, how: Encoding, around: Around) -> bool:
    """Note a weight or bias of integers as such; whether it holds the same for all that read it."""
    found, held = whole(stored, how, around.moved), around.computed.get(stored)
    if isinstance(held, Grid):
        return found is not None and held.equals(found)
    if found is None:
        return False
    around.computed[stored] = found
    return True


def untrained(deps: Dependencies) -> bool:
    """Whether there are normalisation layers, and all hold the constants they start with."""
    held = [
        value.tensor
        for op in deps.source.ops
        if is_norm(op)
        for value in op.inputs[1:]
        if value is not None and value.is_weight
    ]
    return bool(held) and all(bool((t == t.flatten()[0]).all()) for t in held if t.numel())
