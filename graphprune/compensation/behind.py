"""behind: what later operations add to the product of a linear one, or multiply it by.

1. ONNX writes MatMul and Add: a bias is what the next operation adds.
2. Products of integers become numbers behind: `Cast`, then a multiplication by the steps of both
   operands. What is added comes last.
3. A batch norm holds a mean that a constant can be taken from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from graphprune.compensation.forms import Moved, Typed, Written
from graphprune.compensation.grid import Grid
from graphprune.compensation.written import Known
from graphprune.core.effect import Encoding
from graphprune.core.graph import Graph, Op, Value
from graphprune.rules.facts import adds, copies, found, multiplies
from graphprune.rules.readings import Reading
from graphprune.rules.scalings import is_batch_norm


@dataclass(frozen=True)
class Around:
    """A graph, seen from its values.

    Attributes:
        graph: The graph.
        uses: How many operands of operations each value is.
        users: The operations that read each value, once for each operand.
        makers: The operation that each value is the result of.
        computed: Weights and biases that are computed from stored ones, as they are written.
        moved: Integers that are moved from where they are stored.
        same: Results that are another's once more.
        made: How integers that operations make stand for numbers.
    """

    graph: Graph
    uses: Counter[Value]
    users: Mapping[Value, Sequence[Op]]
    makers: Mapping[Value, Op]
    computed: dict[Value, Written]
    moved: Mapping[Value, Moved]
    same: Mapping[Value, Value]
    made: Mapping[Value, Encoding]

    @staticmethod
    def of(graph: Graph, known: Known) -> Around:
        """What is around the values of a graph."""
        users: dict[Value, list[Op]] = {}
        makers: dict[Value, Op] = {}
        made: dict[Value, Encoding] = {}
        for op in graph.ops:
            makers.update(dict.fromkeys(op.outputs, op))
            made.update({op.outputs[at]: how for at, how in found(op).made.items()})
            for value in op.inputs:
                if value is not None:
                    users.setdefault(value, []).append(op)
        return Around(
            graph, known.uses, users, makers, known.written, known.moved, known.same, made
        )

    def reader(self, op: Op) -> Op | None:
        """The only reader of an operation's result; None where several read it, or the caller."""
        (result,) = op.outputs
        readers = self.users.get(result, [])
        return readers[0] if len(readers) == 1 and result not in self.graph.outputs else None


def constant(bias: Value, computed: Mapping[Value, Written]) -> bool:
    """Whether a constant can be added to a bias."""
    return is_row(bias) and (bias.kind == "parameter" or bias in computed)


def is_row(value: Value) -> bool:
    """Whether no more than one dimension is longer than one."""
    return bool(value.shape) and sum(size > 1 for size in value.shape) <= 1


def added_behind(op: Op, read: Reading, around: Around) -> Value | None:
    """The bias that the next operation adds to a result.

    Args:
        op: The operation that gives the result.
        read: The linear operation that the result is of.
        around: The graph.
    """
    behind = around.reader(op)
    if behind is None or not adds(behind) or len(behind.inputs) != 2:
        return None
    (result,) = op.outputs
    at = read.output % len(result.shape)
    wanted = [size if place == at else 1 for place, size in enumerate(result.shape)]
    for value in behind.inputs:
        held = value is not None and (value.kind == "parameter" or value in around.computed)
        if value is not None and held and around.uses[value] == around.uses[read.weight]:
            led = [1] * (len(wanted) - len(value.shape)) + list(value.shape)
            return value if led == wanted else None
    return None


def scaled_behind(
    op: Op, read: Reading, how: Encoding, around: Around
) -> tuple[tuple[Value, ...], Op] | None:
    """The steps of a weight that are multiplied with a product of integers.

    Args:
        op: The operation.
        read: What it reads.
        how: How the integers that it reads stand for numbers.
        around: The graph.

    Returns:
        The steps, and the operation that gives numbers; None where these are not all.
    """
    ours, theirs = list(how.scales), list[Value]()
    last, behind = op, around.reader(op)
    while behind is not None and (copies(behind) or multiplies(behind)):
        if multiplies(behind):
            first, second = behind.inputs
            other = second if first is last.outputs[0] else first
            for factor in _factors(other, around):
                if factor in ours:
                    ours.remove(factor)
                elif factor.is_weight and (is_row(factor) or not factor.shape):
                    theirs.append(factor)
                else:
                    return None
        last, behind = behind, around.reader(behind)
    outputs = read.weight.shape[1 - read.inner]
    fits = all(prod(value.shape) in (1, outputs) for value in theirs)
    return (tuple(theirs), last) if theirs and fits and not ours else None


def _factors(value: Value | None, around: Around) -> list[Value]:
    """What a value is the product of."""
    maker = around.makers.get(value) if value is not None else None
    if maker is not None and multiplies(maker):
        return [factor for part in maker.inputs for factor in _factors(part, around)]
    return [] if value is None else [value]


def norm_behind(op: Op, read: Reading, around: Around) -> Op | None:
    """The batch norm that is the only reader of an operation's result, and used as often as it."""
    norm = around.reader(op) if read.ends else None
    result = op.outputs[0]
    if norm is None or not is_batch_norm(norm) or norm.inputs[0] is not result:
        return None
    if read.output % len(result.shape) != 1:
        return None
    mean, variance = norm.inputs[3:5]
    if mean is None or variance is None or around.uses[mean] != around.uses[variance]:
        return None
    return norm if around.uses[mean] == around.uses[read.weight] else None


def own_steps(
    read: Reading, bias: Value | None, around: Around
) -> tuple[Value | None, tuple[Value, ...]]:
    """The step of a weight's integers, if it may change, and steps that are multiples of it.

    Kernels of integers take the step of a bias for that of the weight times that of what is read,
    also where the graph writes it down.
    """
    nothing: tuple[None, tuple[Value, ...]] = None, ()
    if read.joined and read.encodings:  # the step may be that of what is added, too
        return nothing
    held, moved = around.computed.get(read.weight), False
    while isinstance(held, Moved | Typed):
        held, moved = held.held, moved or isinstance(held, Moved)
    if not isinstance(held, Grid) or len(held.how.scales) != 1 or around.uses[read.weight] != 1:
        return nothing
    (step,), told = held.how.scales, (*held.how.scales, *held.again)
    outputs = around.graph.outputs
    if any(around.uses[value] != told.count(value) or value in outputs for value in told):
        return nothing
    again = tuple(value for value in held.again if value is not step)
    added = None if bias is None else around.computed.get(bias)
    if not isinstance(added, Grid):
        return nothing if added is None and bias in read.encodings else (step, again)
    if step in added.how.scales:
        return step, again
    several = prod(step.shape) > 1
    if len(added.how.scales) != 1 or (several and (moved or held.how.dim != 1 - read.inner)):
        return nothing
    (follows,) = added.how.scales
    alike = prod(follows.shape) == prod(step.shape) and around.uses[follows] == 1
    return (step, (*again, follows)) if alike else nothing
