"""stored: the numbers that a weight stands for, which quantized weights do not hold as they are."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.engine.tensors import along

_FIRST = 8  # numbers along each dimension: a slice is looked at whole only where these are zero


class Stored:
    """The weights of a graph as the numbers that they stand for: `(q - zero point) * scale`.

    The rule of an operation that reads quantized numbers says which operands hold their zero
    points and their scales.

    Args:
        deps: The analysis.
    """

    def __init__(self, deps: Dependencies) -> None:
        self._deps = deps
        self._grid: set[Value | None] = set()
        self._points: dict[Value, tuple[Value, int]] = {}
        self._scales: dict[Value, tuple[Value, int]] = {}
        for op, effect in deps.effects.items():
            for place, point, dim in effect.zeros:
                self._grid.add(op.inputs[point])
                _note(self._points, op.inputs[place], op.inputs[point], dim)
            for place, (scale, dim) in effect.scales.items():
                self._grid.add(op.inputs[scale])
                _note(self._scales, op.inputs[place], op.inputs[scale], dim)

    def parameters(self) -> Iterator[Value]:
        """The trainable weights, but for zero points and scales: these say what others are."""
        return (value for value in self._deps.source.parameters() if value not in self._grid)

    def numbers(self, value: Value) -> torch.Tensor:
        """What a weight stands for; the weight itself where nothing says otherwise."""
        tensor = torch.as_tensor(value.tensor).detach()
        if tensor.is_floating_point() or tensor.is_complex():
            return tensor
        point, scale = self._points.get(value), self._scales.get(value)
        if point is not None:
            zero, dim = point
            tensor = tensor.float() - along(zero.tensor.float(), dim, tensor.dim())
        if scale is not None:
            step, dim = scale
            tensor = tensor.float() * along(step.tensor.float(), dim, tensor.dim())
        return tensor


def zeros(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    """Which slices of a dimension hold nothing but zeros."""
    rows = tensor.movedim(dim, 0)
    first = rows
    for at in range(1, rows.dim()):
        first = first.narrow(at, 0, min(_FIRST, rows.shape[at]))
    dead = (first == 0).reshape(len(rows), -1).all(1)
    left = dead.nonzero().flatten()
    if len(left) and first.shape != rows.shape:
        dead[left] = (rows[left] == 0).reshape(len(left), -1).all(1)
    return dead


def _note(
    into: dict[Value, tuple[Value, int]], value: Value | None, held: Value | None, dim: int
) -> None:
    """Remember which weight tells a weight's zero point, or scale."""
    if value is None or held is None or not value.is_weight:
        return
    if isinstance(held.tensor, torch.Tensor):  # known beforehand, not computed
        into[value] = (held, dim)
