"""stored: the numbers that a weight stands for, which quantized weights do not hold as they are."""

from __future__ import annotations

from dataclasses import replace

import torch

from graphprune.core.effect import Encoding, Packing
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.engine import bits, integers

_FIRST = 8  # numbers along each dimension: a slice is looked at whole only where these are zero


class Stored:
    """The weights of a graph as the numbers that they stand for: `(q - zero point) * scale`.

    The rule of an operation that reads quantized numbers says which operands hold their zero
    points and their scales.

    Args:
        deps: The analysis.
    """

    def __init__(self, deps: Dependencies) -> None:
        self._told: dict[Value, Encoding] = {}
        self._packed: dict[Value, Packing] = {}
        for op, effect in deps.effects.items():
            for place, how in effect.encodings.items():
                value = op.inputs[place]
                if value is not None and value.is_weight:
                    self._told[value] = how
            for place, held in effect.packed.items():
                weight = op.inputs[place]
                if weight is not None and weight.is_weight and _known(held):
                    self._packed[weight] = held

    def numbers(self, value: Value) -> torch.Tensor:
        """What a weight stands for; the weight itself where nothing says otherwise.

        Of bytes that hold several numbers each, their norms.
        """
        tensor = torch.as_tensor(value.tensor).detach()
        if tensor.is_floating_point() or tensor.is_complex():
            return tensor.float() if tensor.element_size() == 1 else tensor  # bytes: few operations
        if value in self._packed:
            return bits.norms(tensor, self._packed[value])
        how = self._told.get(value)
        if how is None:
            return tensor
        scales = tuple(value for value in how.scales if isinstance(value.tensor, torch.Tensor))
        zero = how.zero if how.zero and isinstance(how.zero.tensor, torch.Tensor) else None
        return integers.numbers(tensor, replace(how, scales=scales, zero=zero))  # not the computed


def _known(how: Packing) -> bool:
    """Whether scales and zero points are stored."""
    held = (how.scale, how.zero)
    return all(v is None or (v.is_weight and isinstance(v.tensor, torch.Tensor)) for v in held)


def zeros(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Which slices of a dimension hold nothing but zeros."""
    rows = tensor.movedim(dim, 0)
    if rows.dim() == 1:
        return rows == 0
    first = rows
    for at in range(1, rows.dim()):
        first = first.narrow(at, 0, min(_FIRST, rows.shape[at]))
    none = first == 0
    if not bool(none.any()):
        return torch.zeros(len(rows), dtype=torch.bool, device=tensor.device)
    dead = none.reshape(len(rows), -1).all(1)
    left = dead.nonzero().flatten()
    if len(left) and first.shape != rows.shape:
        dead[left] = (rows[left] == 0).reshape(len(left), -1).all(1)
    return dead
