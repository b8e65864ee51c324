"""recaptured: a smaller module whose calls are those of the narrowed graph computes what it does.

Its calls are recorded without values. Where every operation, number and operand is the same, no
comparison of results is needed; where one is not, or they cannot be recorded, nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import torch
from torch import nn

from graphprune.core.cuts import Cuts
from graphprune.core.graph import Graph, Op, Value
from graphprune.engine.state import preserved, quiet
from graphprune.engine.tensors import cut_tensor
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.execute import TORCH
from graphprune.frontends.torch.reader import Reader
from graphprune.frontends.torch.tables import keeps_tables
from graphprune.frontends.torch.tracing import trace


def calls_the_same(captured: CapturedModule, cuts: Cuts, model: nn.Module) -> bool:
    """Whether a smaller module makes the calls of the narrowed graph.

    Args:
        captured: The captured model.
        cuts: The narrowed graph.
        model: The smaller module, with the original's names.
    """
    if captured.original is not None or keeps_tables(model):
        return False
    with preserved(model):
        model.eval()
        try:
            found = _recorded(model, captured)
        except Exception:  # what cannot be recorded is compared by its results
            return False
    return _Matched(captured.graph, cuts).same(found)


def _recorded(model: nn.Module, captured: CapturedModule) -> Graph:
    with quiet():
        found = trace(model, captured.inputs)
    reader = Reader(model, found, TORCH)
    for node in found.graph.nodes:
        reader.read(node)
    return reader.graph


class _Matched:
    """Holds another graph against the narrowed one, from the inputs on."""

    def __init__(self, graph: Graph, cuts: Cuts) -> None:
        self._graph, self._cuts = graph, cuts
        self._pairs: dict[Value, Value] = {}

    def same(self, other: Graph) -> bool:
        """Whether it computes the same."""
        graph = self._graph
        for mine, its in ((graph.inputs, other.inputs), (graph.ops, other.ops)):
            if len(mine) != len(its):
                return False
        self._pairs.update(zip(other.inputs, graph.inputs, strict=True))
        return all(map(self._op, graph.ops, other.ops)) and self._values(
            graph.outputs, other.outputs
        )

    def _op(self, mine: Op, its: Op) -> bool:
        attrs = {**mine.attrs, **self._cuts.attrs.get(mine, {})}
        told = (mine.type, str(mine.source.target), str(attrs))
        if told != (its.type, str(its.source.target), str(its.attrs)):
            return False
        if len(mine.outputs) != len(its.outputs) or not self._values(mine.inputs, its.inputs):
            return False
        self._pairs.update(zip(its.outputs, mine.outputs, strict=True))
        return all(map(self._shaped, mine.outputs, its.outputs))

    def _values(self, mine: Sequence[Value | None], its: Sequence[Value | None]) -> bool:
        return all(self._value(a, b) for a, b in zip_longest(mine, its))

    def _value(self, mine: Value | None, its: Value | None) -> bool:
        if mine is None or its is None:
            return mine is its
        if not its.is_weight:
            return self._pairs.get(its) is mine
        if mine.kind != its.kind or not self._shaped(mine, its):
            return False
        if its.kind != "constant":
            return bool({mine.name, *mine.aliases} & {its.name, *its.aliases})
        held = cut_tensor(mine.tensor, self._cuts.weights.get(mine, ()))
        return torch.equal(held, its.tensor)

    def _shaped(self, mine: Value, its: Value) -> bool:
        kept = self._cuts.kept(mine)
        shape = tuple(
            size if left is None else len(left) for size, left in zip(mine.shape, kept, strict=True)
        )
        return shape == tuple(its.shape) and mine.dtype == its.dtype
