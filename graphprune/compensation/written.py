"""written: weights that the graph computes from stored ones, and how new numbers are stored.

1. Integers, with their scale (`grid`).
2. A direction v and lengths g, of which the weight is `g * v / |v|` (weight normalisation: Salimans
   & Kingma, NeurIPS 2016). Any weight W can be stored so: v = W, g = |W|.
3. A vector that is laid along one dimension of several: a bias that is added to a convolution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from graphprune.compensation.grid import grid
from graphprune.compensation.rounding import Steps
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.rules.facts import moves
from graphprune.rules.scalings import directed


class Written(Protocol):
    """A weight that is computed from stored ones."""

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it is solved for."""

    def numbers(self) -> torch.Tensor:
        """Its numbers."""

    def steps(self) -> Steps | None:
        """Where integers are stored: what they can stand for, in the weight's shape."""

    def stored_as(
        self, numbers: torch.Tensor, tensor: Callable[[Value], torch.Tensor]
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """What is stored for a narrowed weight to have these numbers, and which it then has.

        Args:
            numbers: The numbers.
            tensor: Gives weights of the narrowed graph, as they are then.
        """


@dataclass(frozen=True, eq=False)
class Directed:
    """The direction and the lengths that a weight is computed from.

    Attributes:
        direction: v, a weight of the graph.
        length: g, another.
        dim: The dimension of v with a length for each index; None where there is one for all.
    """

    direction: Value
    length: Value
    dim: int | None

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it is solved for."""
        held: torch.dtype = self.direction.tensor.dtype
        return held

    def numbers(self) -> torch.Tensor:
        """`g * v / |v|`."""
        v, g = self.direction.tensor.detach(), self.length.tensor.detach()
        found: torch.Tensor = g * v / self._norm(v)
        return found

    def steps(self) -> None:
        """None: no integers are stored."""

    def stored_as(
        self, numbers: torch.Tensor, tensor: Callable[[Value], torch.Tensor]
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """W and |W|; a direction that W does not have, being zero, stays as it was."""
        old, norm = tensor(self.direction), self._norm(numbers)
        length = norm.reshape_as(tensor(self.length))
        direction = torch.where(norm == 0, old, numbers)
        return {self.direction: direction.contiguous(), self.length: length}, numbers

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        others = [at for at in range(x.dim()) if at != self.dim]
        found: torch.Tensor = torch.linalg.vector_norm(x, dim=others, keepdim=True)
        return found


@dataclass(frozen=True, eq=False)
class Laid:
    """A vector along one dimension of several.

    Attributes:
        vector: The vector, a weight of the graph.
        shape: Its shape where it is laid.
    """

    vector: Value
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it is solved for."""
        held: torch.dtype = self.vector.tensor.dtype
        return held

    def numbers(self) -> torch.Tensor:
        """The vector as it is laid."""
        found: torch.Tensor = self.vector.tensor.detach().reshape(self.shape)
        return found

    def steps(self) -> None:
        """None: no integers are stored."""

    def stored_as(
        self, numbers: torch.Tensor, tensor: Callable[[Value], torch.Tensor]
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """The vector itself."""
        return {self.vector: numbers.flatten()}, numbers


def written(deps: Dependencies) -> dict[Value, Written]:
    """The values of a graph that are computed from stored weights, to which any can be written."""
    uses = Counter(v for op in deps.source.ops for v in op.inputs if v is not None)
    found = (
        (op, grid(op, deps, uses) or _directed(op, uses) or _laid(op, uses))
        for op in deps.source.ops
    )
    return {op.outputs[0]: held for op, held in found if held is not None}


def _directed(op: Op, uses: Counter[Value]) -> Directed | None:
    """What an operation reads, if it gives directions their lengths."""
    dim = directed(op)
    if dim is None or len(op.inputs) != 2:
        return None
    v, g = op.inputs
    for held in (v, g):
        if held is None or held.kind != "parameter" or uses[held] != 1:
            return None
        if not isinstance(held.tensor, torch.Tensor) or not held.tensor.is_floating_point():
            return None
    assert v is not None and g is not None
    return Directed(v, g, None if dim < 0 else dim)


def _laid(op: Op, uses: Counter[Value]) -> Laid | None:
    """What an operation reads, if it lays a vector along a dimension."""
    vector = op.inputs[0] if op.inputs and moves(op) and len(op.outputs) == 1 else None
    if vector is None or vector.kind != "parameter" or uses[vector] != 1:
        return None
    if not isinstance(vector.tensor, torch.Tensor) or not vector.tensor.is_floating_point():
        return None
    shape = op.outputs[0].shape
    if len(vector.shape) != 1 or sorted(shape) != [*[1] * (len(shape) - 1), *vector.shape]:
        return None
    return Laid(vector, shape)
