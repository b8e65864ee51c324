"""Labels: which value of the graph a tensor is, while a model's code runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from graphprune.core.cuts import Cuts
from graphprune.core.graph import Graph, Op, Value
from graphprune.frontends.torch.findings import weights_by_id
from graphprune.frontends.torch.packed import is_packed


class Labels:
    """The values that tensors are, by the tensors' identity.

    Args:
        graph: The captured graph.
        model: The model whose code runs.
        cuts: What was narrowed in it.
    """

    def __init__(self, graph: Graph, model: nn.Module, cuts: Cuts) -> None:
        self._cuts = cuts
        self._weights = weights_by_id(graph, model)
        self._values: dict[int, tuple[torch.Tensor, Value]] = {}

    def put(self, tensor: torch.Tensor, value: Value) -> None:
        """Remember which value of the graph a tensor is."""
        self._values[id(tensor)] = (tensor, value)

    def put_results(self, ops: Sequence[Op], result: Any) -> None:
        """Remember the tensors that a call of some operations returned, by their shapes."""
        tensors = [x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)]
        for tensor in tensors:
            for value in (value for op in reversed(ops) for value in op.outputs):
                if self.shape(value) == tuple(tensor.shape) and not self._taken(value, tensors):
                    self.put(tensor, value)
                    break

    def _taken(self, value: Value, tensors: Sequence[torch.Tensor]) -> bool:
        return any(self._values.get(id(t), (None, None))[1] is value for t in tensors)

    def shape(self, value: Value) -> tuple[int, ...]:
        """The shape that a value has once narrowed."""
        kept = self._cuts.kept(value)
        return tuple(
            size if k is None else len(k) for size, k in zip(value.shape, kept, strict=True)
        )

    def stand_in(self, value: Value) -> torch.Tensor:
        """A tensor of arbitrary numbers for a value."""
        tensor = torch.empty(self.shape(value), dtype=getattr(torch, value.dtype))
        self.put(tensor, value)
        return tensor

    def named(self, tree: Any) -> Any:
        """Arguments or results with values of the graph in place of tensors, where known."""

        def name(leaf: torch.Tensor) -> Any:
            found = self._values.get(id(leaf))
            return found[1] if found else self._weights.get(id(leaf), leaf)

        def plain(held: PackedSequence) -> tuple[Any, ...]:
            return tuple(held)  # it takes nothing but tensors

        tree = pytree.tree_map_only(PackedSequence, plain, tree, is_leaf=is_packed)
        return pytree.tree_map_only(torch.Tensor, name, tree)
