"""Numbers in generated code that are taken from the sizes of its inputs again."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from graphprune.core.graph import Value
from graphprune.frontends.torch.laws import Length

_SHAPED = {
    torch.ops.aten.view.default: "view",
    torch.ops.aten.reshape.default: "reshape",
    torch.ops.aten.expand.default: "expand",
    torch.ops.aten.repeat.default: "repeat",
}
"""Operations that are given sizes, as methods: only these does `torch.jit.trace` see follow."""


class Numbers:
    """Numbers that follow sizes.

    Args:
        graph: The code, as it is written.
        nodes: The node of each value so far.
    """

    def __init__(self, graph: fx.Graph, nodes: Mapping[Value, fx.Node]) -> None:
        self._graph, self._nodes = graph, nodes
        self._lengths: dict[tuple[Value, int], fx.Node] = {}

    def call(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        """The call of an operation; as a method where it is given sizes that others follow."""
        method = _SHAPED.get(target)
        if method is None or kwargs or not any(isinstance(size, fx.Node) for size in args[1]):
            return self._graph.call_function(target, args, kwargs)
        return self._graph.call_method(method, (args[0], *args[1]))

    def lengthened(self, number: Any, lengths: Any) -> Any:
        """A number, or several, with the factors that follow sizes of the inputs."""
        if isinstance(number, list | tuple):
            return [self.lengthened(n, found) for n, found in zip(number, lengths, strict=True)]
        for found in lengths or ():
            number = self._scaled(number, found)
        return number

    def _scaled(self, number: Any, found: Length) -> Any:
        """A number times a power of an input's size, or plus a multiple of it."""
        call = self._graph.call_function
        length = self._length(found.value, found.dim)
        if found.rest > 1:
            length = call(operator.floordiv, (length, found.rest))
        if found.step is not None:
            more = call(operator.mul, (call(operator.sub, (length, found.size)), found.step))
            return call(operator.add, (more, number))
        if found.whole and found.power == 1:
            if isinstance(number, int) and number % found.size == 0:
                times = number // found.size
                return length if times == 1 else call(operator.mul, (length, times))
            return call(operator.floordiv, (call(operator.mul, (length, number)), found.size))
        share = call(operator.truediv, (length, found.size))
        return call(operator.mul, (call(operator.pow, (share, found.power)), number))

    def _length(self, value: Value, dim: int) -> fx.Node:
        if (value, dim) not in self._lengths:
            self._lengths[value, dim] = self._graph.call_method("size", (self._nodes[value], dim))
        return self._lengths[value, dim]
