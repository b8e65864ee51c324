"""grid: weights that are stored as integers, and what they stand for: `(q - zero point) * scale`.

Such a weight is solved for as the numbers that it stands for, one layer at a time, and goes back to
integers, with the scale and the zero point that it has. Numbers beyond the last integer become that
one. `rounding` says which integers are taken.

Example:
    scale 0.1, zero point 0: a solution of 0.26 is stored as 3, which stands for 0.3.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch

from graphprune.compensation.rounding import integers
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.tensors import along, cut_tensor

_ENDS = {"int4": (-8, 7), "uint4": (0, 15)}  # of types that stand in a wider one


@dataclass(frozen=True, eq=False)
class Grid:
    """The integers that stand for a weight.

    Attributes:
        stored: The integers, a weight of the graph.
        scale: The step between two of them.
        zero: Which of them stands for zero; None: 0 does.
        dim: The dimension along which scale and zero point may differ.
    """

    stored: Value
    scale: Value
    zero: Value | None
    dim: int

    def numbers(self) -> torch.Tensor:
        """What the integers stand for, in float32."""
        scale, zero = self._tensors(None)
        found: torch.Tensor = (self.stored.tensor.float() - zero) * scale
        return found

    @property
    def dtype(self) -> torch.dtype:
        """In which precision it is solved for."""
        return torch.float32

    def stored_as(
        self, numbers: torch.Tensor, cuts: Cuts
    ) -> tuple[dict[Value, torch.Tensor], torch.Tensor]:
        """The integers nearest to the numbers of a narrowed weight, and what they stand for."""
        scale, zero = self._tensors(cuts)
        integers = self._nearest(numbers, scale, zero)
        return {self.stored: integers}, (integers.float() - zero) * scale

    def steps(self) -> tuple[torch.Tensor, torch.Tensor, int, int]:
        """Scale and zero point of each, in the weight's shape; the least and largest integer."""
        scale, zero = (x.expand(self.stored.shape) for x in self._tensors(None))
        return scale, zero, *self._ends

    @property
    def _ends(self) -> tuple[int, int]:
        whole = torch.iinfo(self.stored.tensor.dtype)
        return _ENDS.get(self.stored.dtype, (whole.min, whole.max))

    def _nearest(
        self, numbers: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor
    ) -> torch.Tensor:
        found = integers(numbers.double(), scale.double(), zero, self._ends)
        return found.to(self.stored.tensor.dtype)

    def _tensors(self, cuts: Cuts | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point, cut like the weight, in the shape of its dimensions."""
        rank = len(self.stored.shape)
        scale, zero = (
            torch.zeros(())
            if value is None
            else cut_tensor(value.tensor, [] if cuts is None else cuts.weights.get(value, []))
            for value in (self.scale, self.zero)
        )
        return along(scale.float(), self.dim, rank), along(zero.float(), self.dim, rank)


def grid(op: Op, deps: Dependencies, uses: Counter[Value]) -> Grid | None:
    """What an operation reads, if it turns stored integers into numbers and does nothing else.

    Args:
        op: The operation.
        deps: The analysis.
        uses: How many operands of operations each value is.
    """
    effect = deps.effects[op]
    if 0 not in effect.scales or len(op.outputs) != 1:
        return None
    place, dim = effect.scales[0]
    point = next((point for held, point, _ in effect.zeros if held == 0), None)
    stored, scale = op.inputs[0], op.inputs[place]
    zero = None if point is None else op.inputs[point]
    known = [value for value in (stored, scale, zero) if value is not None]
    if stored is None or scale is None or stored.kind != "parameter" or uses[stored] != 1:
        return None
    if not all(v.is_weight and isinstance(v.tensor, torch.Tensor) for v in known):
        return None
    whole = not stored.tensor.dtype.is_floating_point and not stored.tensor.dtype.is_complex
    return Grid(stored, scale, zero, dim) if whole and op.outputs[0].shape == stored.shape else None
