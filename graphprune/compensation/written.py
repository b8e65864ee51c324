"""written: weights that the graph computes from stored ones, and how new numbers are stored.

1. Integers, with their scale (`grid`).
2. A direction v and lengths g, of which the weight is `g * v / |v|` (weight normalisation: Salimans
   & Kingma, NeurIPS 2016). Any weight W can be stored so: v = W, g = |W|.
3. Another weight, whose numbers are moved: transposed, or in another shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch

from graphprune.compensation.grid import grid
from graphprune.compensation.rounding import Steps
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.tensors import cut_tensor
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
        self, numbers: torch.Tensor, cuts: Cuts, tensor: Callable[[Value], torch.Tensor]
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """What is stored for a narrowed weight to have these numbers, and which it then has.

        Args:
            numbers: The numbers.
            cuts: What was removed.
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
        self, numbers: torch.Tensor, cuts: Cuts, tensor: Callable[[Value], torch.Tensor]
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
class Moved:
    """The numbers of another weight in other places: transposed, or in another shape.

    Attributes:
        op: What moves them.
        held: What the other is computed from; None where it is stored itself.
        evaluate: Runs an operation.
    """

    op: Op
    held: Written | None
    evaluate: Callable[..., list[torch.Tensor]]

    @property
    def base(self) -> Value:
        """The other weight."""
        (base, *_) = self.op.inputs
        assert base is not None
        return base

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it is solved for."""
        held: torch.dtype = self.base.tensor.dtype if self.held is None else self.held.dtype
        return held

    def numbers(self) -> torch.Tensor:
        """Those of the other."""
        held = self.base.tensor.detach() if self.held is None else self.held.numbers()
        return self._moved(held)

    def steps(self) -> Steps | None:
        """Those of the other."""
        told = None if self.held is None else self.held.steps()
        if told is None:
            return None
        which, least, most, stays = map(
            self._moved, (told.which, told.least, told.most, told.stays)
        )
        return Steps(told.scales, which, least, most, stays)

    def stored_as(
        self, numbers: torch.Tensor, cuts: Cuts, tensor: Callable[[Value], torch.Tensor]
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """The other, with these numbers back in their places."""
        places = torch.arange(prod(self.base.shape)).reshape(self.base.shape)
        came = cut_tensor(self._moved(places), cuts.kept(self.op.outputs[0])).flatten()
        back = cut_tensor(places, cuts.kept(self.base))
        at = torch.searchsorted(back.flatten(), came)  # which are in order
        base = numbers.new_zeros(back.numel()).index_copy(0, at, numbers.flatten())
        base = base.reshape(back.shape)
        if self.held is None:
            return {self.base: base}, numbers
        stored, found = self.held.stored_as(base, cuts, tensor)
        return stored, found.flatten()[at].reshape(numbers.shape)

    def _moved(self, x: torch.Tensor) -> torch.Tensor:
        operands = [x, *(None if v is None else v.tensor for v in self.op.inputs[1:])]
        return self.evaluate(self.op, operands, {}, torch.float32)[0]


def written(deps: Dependencies) -> dict[Value, Written]:
    """The values of a graph that are computed from stored weights, to which any can be written."""
    uses = Counter(v for op in deps.source.ops for v in op.inputs if v is not None)
    makers = {value: op for op in deps.source.ops for value in op.outputs}
    out: dict[Value, Written] = {}
    for op in deps.source.ops:
        held = grid(op, deps, uses, makers) or _directed(op, uses)
        if held is not None:
            out[op.outputs[0]] = held
        else:
            _moved(op, deps, uses, out)
    return out


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


def _moved(op: Op, deps: Dependencies, uses: Counter[Value], out: dict[Value, Written]) -> None:
    """Note the result of an operation that moves the numbers of a weight, each to one place."""
    base = op.inputs[0] if op.inputs and moves(op) and len(op.outputs) == 1 else None
    if base is None or uses[base] != 1 or base in deps.source.outputs:
        return
    (result,) = op.outputs
    if not all(v is None or isinstance(v.tensor, torch.Tensor) for v in op.inputs[1:]):
        return
    held = out.get(base)
    if held is None and not (
        base.kind == "parameter"
        and isinstance(base.tensor, torch.Tensor)
        and base.tensor.is_floating_point()
    ):
        return
    if prod(base.shape) == prod(result.shape) and base.dtype == result.dtype:
        out[result] = Moved(op, held, deps.source.engine.evaluate)
