"""forms: how weights are computed from stored ones, and how new numbers are stored.

1. A direction v and lengths g, of which the weight is `g * v / |v|` (weight normalisation: Salimans
   & Kingma, NeurIPS 2016). Any weight W can be stored so: v = W, g = |W|.
2. Numbers that are moved: transposed, or in another shape.
3. Numbers of another type.
4. Numbers times stored factors, none of them zero.
5. Numbers times factors that the code knows, or moves (a learning rate that is equal for all
   layers: Karras et al., Progressive Growing of GANs, ICLR 2018).

`grid` adds those that are stored as integers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Protocol

import torch

from graphprune.compensation.rounding import Steps
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.engine.tensors import cut_tensor

Tensors = Callable[[Value], torch.Tensor]
"""Gives weights of the narrowed graph, as they are then."""


def within(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Numbers in another type: the largest that it has, where they are beyond."""
    if not dtype.is_floating_point:
        return numbers.to(dtype)
    ends = torch.finfo(dtype)
    return numbers.clamp(ends.min, ends.max).to(dtype)


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
        self, numbers: torch.Tensor, cuts: Cuts, tensor: Tensors
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
        self, numbers: torch.Tensor, cuts: Cuts, tensor: Tensors
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
class _Over:
    """A weight that is computed from another.

    Attributes:
        base: The other weight.
        held: What that is computed from; None where it is stored itself.
    """

    base: Value
    held: Written | None

    def _base_numbers(self) -> torch.Tensor:
        held: torch.Tensor = self.base.tensor.detach() if self.held is None else self.held.numbers()
        return held

    def _base_stored(
        self, numbers: torch.Tensor, cuts: Cuts, tensor: Tensors
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """`stored_as` of the other."""
        if self.held is None:
            own = within(numbers, self.base.tensor.dtype)
            return {self.base: own}, own
        return self.held.stored_as(numbers.to(self.held.dtype), cuts, tensor)


@dataclass(frozen=True, eq=False)
class Moved(_Over):
    """The numbers of another weight in other places: transposed, or in another shape.

    Attributes:
        op: What moves them.
        evaluate: Runs an operation.
    """

    op: Op
    evaluate: Callable[..., list[torch.Tensor]]

    @property
    def source(self) -> Value:
        """The first weight of a row of those that are moved."""
        return self.held.source if isinstance(self.held, Moved) else self.base

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it is solved for."""
        held: torch.dtype = self.base.tensor.dtype if self.held is None else self.held.dtype
        return held

    def numbers(self) -> torch.Tensor:
        """Those of the other."""
        return self._moved(self._base_numbers())

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
        self, numbers: torch.Tensor, cuts: Cuts, tensor: Tensors
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """The other, with these numbers back in their places."""
        places = torch.arange(prod(self.base.shape)).reshape(self.base.shape)
        came = cut_tensor(self._moved(places), cuts.kept(self.op.outputs[0])).flatten()
        back = cut_tensor(places, cuts.kept(self.base))
        at = torch.searchsorted(back.flatten(), came)  # which are in order
        base = numbers.new_zeros(back.numel()).index_copy(0, at, numbers.flatten())
        stored, found = self._base_stored(base.reshape(back.shape), cuts, tensor)
        return stored, found.flatten()[at].reshape(numbers.shape)

    def _moved(self, x: torch.Tensor) -> torch.Tensor:
        operands = [x, *(None if v is None else v.tensor for v in self.op.inputs[1:])]
        return self.evaluate(self.op, operands, {}, torch.float32)[0]


@dataclass(frozen=True, eq=False)
class Typed(_Over):
    """The numbers of another weight in another type.

    Attributes:
        dtype: The type, in which it is solved for.
    """

    dtype: torch.dtype

    def numbers(self) -> torch.Tensor:
        """Those of the other."""
        return self._base_numbers().to(self.dtype)

    def steps(self) -> Steps | None:
        """Those of the other."""
        return None if self.held is None else self.held.steps()

    def stored_as(
        self, numbers: torch.Tensor, cuts: Cuts, tensor: Tensors
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """The other, in its own type."""
        stored, near = self._base_stored(numbers, cuts, tensor)
        return stored, near.to(self.dtype)


@dataclass(frozen=True, eq=False)
class _Multiplied(_Over, ABC):
    """The numbers of another weight times factors, none of them zero.

    Attributes:
        dtype: The type, in which it is solved for.
    """

    dtype: torch.dtype

    @property
    @abstractmethod
    def _factors(self) -> torch.Tensor:
        """The factors, which broadcast against it."""

    @abstractmethod
    def _left(self, cuts: Cuts, tensor: Tensors) -> torch.Tensor:
        """The factors of the narrowed graph."""

    def numbers(self) -> torch.Tensor:
        """Those of the other, times the factors."""
        return (self._base_numbers() * self._factors).to(self.dtype)

    def steps(self) -> None:
        """None: integers that may be below stand for other numbers at each place."""

    def stored_as(
        self, numbers: torch.Tensor, cuts: Cuts, tensor: Tensors
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """The other, divided by the factors."""
        factor = self._left(cuts, tensor)
        stored, near = self._base_stored(numbers / factor, cuts, tensor)
        return stored, (near * factor).to(self.dtype)


@dataclass(frozen=True, eq=False)
class Scaled(_Multiplied):
    """The numbers of another weight times stored factors.

    Attributes:
        factor: The factors.
    """

    factor: Value

    @property
    def _factors(self) -> torch.Tensor:
        held: torch.Tensor = self.factor.tensor.detach()
        return held

    def _left(self, cuts: Cuts, tensor: Tensors) -> torch.Tensor:
        return tensor(self.factor)


@dataclass(frozen=True, eq=False)
class Factored(_Multiplied):
    """The numbers of another weight times factors that no step changes.

    Attributes:
        result: The weight.
        factor: The factors, in its shape.
    """

    result: Value
    factor: torch.Tensor

    @property
    def _factors(self) -> torch.Tensor:
        return self.factor

    def _left(self, cuts: Cuts, tensor: Tensors) -> torch.Tensor:
        return cut_tensor(self.factor, cuts.kept(self.result))
