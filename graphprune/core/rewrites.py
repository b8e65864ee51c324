"""Rewrites: what costs nothing to leave out, as data, and the graph as they leave it.

A rewrite is found on the neutral graph and made by the frontend, on a copy of the caller's model.
There are few kinds of steps: an operation reads other numbers, or it goes and its result is one of
its operands. What nothing reads afterwards goes by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from graphprune.core.graph import Graph, Op, Value


@dataclass(frozen=True)
class Weigh:
    """An operation reads other numbers.

    Attributes:
        op: The operation's name.
        place: Which of its operands.
        tensor: The numbers, which may be of another shape than before, and stand where there was
            no operand; None takes the operand away.
    """

    op: str
    place: int
    tensor: torch.Tensor | None


@dataclass(frozen=True)
class Drop:
    """An operation goes: whoever read its only result reads one of its operands.

    Attributes:
        op: The operation's name.
        place: Which of its operands.
    """

    op: str
    place: int = 0


Step: TypeAlias = "Weigh | Drop"

Readers: TypeAlias = "dict[Value, list[tuple[Op, int] | None]]"
"""Who reads each value: an operation, and at which place; None for the caller of the model."""


@dataclass(frozen=True)
class Rewrite:
    """Steps that leave a graph's results as they are, if all of them are made.

    Attributes:
        at: Name of the operation where they were found.
        what: What they do, in a few words.
        steps: The steps.
        slight: Whether they save so little that no code is generated for them.
        merges: Whether they take away a linear operation or a norm beside another, for which code
            is generated even where classes are to be kept.
    """

    at: str
    what: str
    steps: tuple[Step, ...]
    slight: bool = False
    merges: bool = False


@dataclass
class Draft:
    """A graph as rewrites leave it, and the model not yet.

    The operations are copies under the names of the originals; values are the graph's own, and
    new ones for new numbers.

    Attributes:
        source: The graph as it was.
        ops: The operations that are left.
        outputs: What the graph returns.
        made: The rewrites.
        operands: New numbers by operation and place; None where an operand was taken away.
        dropped: For each operation that went the value that stands for its result.
    """

    source: Graph
    ops: list[Op] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    made: list[Rewrite] = field(default_factory=list)
    operands: dict[tuple[str, int], Value | None] = field(default_factory=dict)
    dropped: dict[str, Value] = field(default_factory=dict)
    _stands: dict[Value, Value] = field(default_factory=dict)
    _makers: dict[Value, Op] | None = None
    _readers: Readers | None = None

    def __post_init__(self) -> None:
        self.ops = [_copied(op) for op in self.source.ops]
        self.outputs = list(self.source.outputs)

    def copied(self) -> Draft:
        """Another draft, with the same rewrites made."""
        other = Draft(self.source)
        other.ops = [_copied(op) for op in self.ops]
        other.outputs, other.made = list(self.outputs), list(self.made)
        other.operands, other.dropped = dict(self.operands), dict(self.dropped)
        other._stands = dict(self._stands)
        return other

    def holds(self, op: Op) -> bool:
        """Whether an operation is still there."""
        return bool(op.outputs) and self.makers().get(op.outputs[0]) is op

    def stands_for(self, value: Value) -> Value:
        """What a value of the source has become."""
        while value in self._stands:
            value = self._stands[value]
        return value

    def makers(self) -> dict[Value, Op]:
        """The operation that makes each value."""
        if self._makers is None:
            self._makers = {value: op for op in self.ops for value in op.outputs}
        return self._makers

    def readers(self) -> Readers:
        """Who reads each value.

        What only training mode reaches counts, for a value that it reads must stay.
        """
        if self._readers is not None:
            return self._readers
        found: Readers = {}
        for op in (*self.ops, *self.source.training):
            for place, value in enumerate(op.inputs):
                if value is not None:
                    found.setdefault(value, []).append((op, place))
        for value in self.outputs:
            found.setdefault(value, []).append(None)
        self._readers = found
        return found

    def make(self, rewrite: Rewrite) -> None:
        """Make a rewrite, and leave out what nothing reads any more."""
        known = {op.name: op for op in self.ops}
        unread: list[Value | None] = []
        for step in rewrite.steps:
            op = known[step.op]
            unread += op.inputs
            if isinstance(step, Weigh):
                self._weigh(op, step)
            else:
                self._drop(op, step)
        self.made.append(rewrite)
        self._changed()
        self._sweep(unread)

    def _weigh(self, op: Op, step: Weigh) -> None:
        value = None
        if step.tensor is not None:
            shape, dtype = tuple(step.tensor.shape), str(step.tensor.dtype).removeprefix("torch.")
            name = f"{op.name}:{step.place}:{len(self.made)}"
            value = Value(name, shape, dtype, "parameter", tensor=step.tensor)
        op.inputs += [None] * (step.place + 1 - len(op.inputs))
        op.inputs[step.place] = value
        self.operands[op.name, step.place] = value

    def _drop(self, op: Op, step: Drop) -> None:
        (result,), operand = op.outputs, op.inputs[step.place]
        assert operand is not None, "an operation cannot become an operand that it lacks"
        self._stands[result] = operand
        self.dropped[op.name] = operand
        self.ops.remove(op)
        for other in self.ops:
            other.inputs = [operand if value is result else value for value in other.inputs]
        self.outputs = [operand if value is result else value for value in self.outputs]

    def _sweep(self, values: list[Value | None]) -> None:
        """Leave out operations that make values which nothing reads, and what only they read."""
        todo = list(values)
        while todo:
            value = todo.pop()
            maker = None if value is None else self.makers().get(value)
            if maker and not any(self.readers().get(result) for result in maker.outputs):
                self.ops.remove(maker)
                self._changed()
                todo += maker.inputs

    def _changed(self) -> None:
        self._makers = self._readers = None

    def graph(self) -> Graph:
        """The graph as it is now."""
        values = (value for op in self.ops for value in op.inputs)
        weights = {v.name: v for v in values if v is not None and v.is_weight}
        source = self.source
        made = Graph(
            self.ops, source.inputs, self.outputs, weights, source.engine, name=source.name
        )
        made.written = source.written & set(weights.values())
        return made

    def unread(self) -> Iterator[Value]:
        """Weights that nothing reads any more."""
        readers = self.readers()
        return (value for value in self.source.weights.values() if not readers.get(value))


def _copied(op: Op) -> Op:
    return Op(op.name, op.type, list(op.inputs), op.outputs, op.attrs, op.module, op.source)
