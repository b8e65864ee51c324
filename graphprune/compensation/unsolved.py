"""unsolved: operations that sum over channels and cannot be solved for.

They read them through weights in another way than linear layers do, or sum them as they are: a mean
or a norm over channels.

What goes is lost to them. A channel i of x that goes costs them E[x_i²] / Σ E[x_j²] of what they
compute, as if channels were independent and weights alike. So they count as a layer with
C = diag(E[x²]) and WᵀW = I, in which no channel can stand in for another.

Example:
    A group is read by a linear layer, which is refitted, and by a bilinear one. Of two equal
    channels one costs the former nothing and the latter half of its output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container
from dataclasses import dataclass

import torch

from graphprune.core.axes import Axis, atoms
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies


@dataclass(frozen=True)
class Unsolved:
    """An operand of an operation that cannot be solved for.

    Attributes:
        op: The operation.
        value: What it reads.
        channel: The dimension that it sums over.
    """

    op: Op
    value: Value
    channel: int

    def powers(self, values: list[torch.Tensor]) -> torch.Tensor:
        """E[x²] of each channel, in float64.

        Args:
            values: What is read, chunk by chunk.
        """
        others = [at for at in range(len(self.value.shape)) if at != self.channel]
        found = [x.double().square().mean(others) if others else x.double() ** 2 for x in values]
        return torch.stack(found).mean(0)


def find_unsolved(deps: Dependencies, solved: Collection[Op]) -> dict[Op, list[Unsolved]]:
    """What operations sum over, those apart that can be solved for.

    Sums over two computed operands (q kᵀ) are not among them.

    Args:
        deps: The analysis.
        solved: Operations that can.
    """
    out: dict[Op, list[Unsolved]] = {}
    fixed, free = deps.source.derived(), {group.axis for group in deps.groups}
    for op in deps.source.ops:
        read = [v for v in op.inputs if v is not None]
        known = [v for v in read if v.is_weight or v in fixed]
        summed = {axis for dim in deps.effects[op].contracts for axis in atoms(dim)}
        held = {axis for v in known for dim in deps.dims[v] for axis in atoms(dim)}
        lost = free & (summed & held | summed - between(deps, op, fixed))
        floats = op.outputs and op.outputs[0].shape and "float" in op.outputs[0].dtype
        if op in solved or not floats or not lost:
            continue
        for value in read:
            if value in known or "float" not in value.dtype:
                continue
            for channel, dim in enumerate(deps.dims[value]):
                if not lost.isdisjoint(atoms(dim)):
                    out.setdefault(op, []).append(Unsolved(op, value, channel))
    return out


def between(deps: Dependencies, op: Op, fixed: Container[Value]) -> set[Axis]:
    """Axes that an operation sums over between computed operands, as q kᵀ and scores times v do.

    Args:
        deps: The analysis.
        op: The operation.
        fixed: Results that are computed from weights alone, which count as weights: integers that
            become numbers.
    """
    by_weight: set[Axis] = set()
    holders: Counter[Axis] = Counter()
    for value in (v for v in op.inputs if v is not None):
        axes = {axis for dim in deps.dims[value] for axis in atoms(dim)}
        if value.is_weight or value in fixed:
            by_weight |= axes
        else:
            holders.update(axes)
    contracted = {axis for dim in deps.effects[op].contracts for axis in atoms(dim)}
    return {axis for axis in contracted - by_weight if holders[axis] > 1}
