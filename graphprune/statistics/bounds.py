"""bounds: between which numbers the channels of a value are taken to lie.

1. What a batch norm makes, by its own statistics: about its offset, as far as six times its gain,
   which one of a thousand million numbers of a normal distribution leaves.
2. What elementwise operations read, as far as data have been seen to go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from graphprune.core.axes import Axis, atoms
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.engine.run import Chunk, Run, given_inputs
from graphprune.rules.facts import is_elementwise
from graphprune.rules.scalings import is_batch_norm, norm_channel

_SPREADS = 6.0


@dataclass(frozen=True)
class Bounds:
    """Between which numbers the slices of a value lie along one dimension.

    Attributes:
        number: The dimension.
        low: The least number of each slice.
        high: The largest.
    """

    number: int
    low: torch.Tensor
    high: torch.Tensor

    def squeezed(self, x: torch.Tensor) -> torch.Tensor:
        """Numbers of the normal distribution, at any scale, moved between the bounds."""
        sides = [-1 if at == self.number else 1 for at in range(x.dim())]
        low, high = (side.to(x).reshape(sides) for side in (self.low, self.high))
        out: torch.Tensor = low + (high - low) * torch.special.ndtr(x)
        return out


def by_statistics(deps: Dependencies) -> dict[Value, Bounds]:
    """The bounds of what batch norms make, six times its gain about its offset."""
    out: dict[Value, Bounds] = {}
    for op in deps.source.ops:
        at = norm_channel(op) if is_batch_norm(op) else None
        gain, offset = op.inputs[1:3] if at is not None else (None, None)
        if at is None or gain is None or offset is None:
            continue
        spread = _SPREADS * gain.tensor.detach().double().abs()
        middle = offset.tensor.detach().double()
        number = at % len(op.outputs[0].shape)
        out[op.outputs[0]] = Bounds(number, middle - spread, middle + spread)
    return out


def by_data(deps: Dependencies, chunks: Sequence[Chunk]) -> dict[Value, Bounds]:
    """The bounds of what elementwise operations read, as far as samples go.

    Args:
        deps: The analysis.
        chunks: Tensors for the graph's inputs, for each run.
    """
    wanted = {group.axis for group in deps.groups}
    held: dict[Value, Bounds] = {}

    def watch(op: Op, operands: list[torch.Tensor | None]) -> None:
        for value, x in zip(op.inputs, operands, strict=True) if is_elementwise(op.type) else ():
            number = None if value is None else _dim(deps, value, wanted)
            if value is None or x is None or number is None or not x.is_floating_point():
                continue
            rows = x.detach().movedim(number, 0).flatten(1).double().cpu()
            low, high = rows.amin(1), rows.amax(1)
            if value in held:
                low, high = low.minimum(held[value].low), high.maximum(held[value].high)
            held[value] = Bounds(number, low, high)

    for chunk in chunks:
        graph = deps.source
        run = Run(graph, lambda value: value.tensor, [given_inputs(graph, chunk)])
        for _ in run.steps(watch):
            pass
    return held


def _dim(deps: Dependencies, value: Value, wanted: set[Axis]) -> int | None:
    """The only dimension of a computed value that holds axes of groups."""
    if value.is_weight:
        return None
    found = [n for n, dim in enumerate(deps.dims[value]) if not wanted.isdisjoint(atoms(dim))]
    return found[0] if len(found) == 1 else None


__all__ = ["Bounds", "by_data", "by_statistics"]
