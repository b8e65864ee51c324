"""reach: how often the taps of a kernel meet the input of a convolution.

A tap at the border of a padded input meets padding, which is zero; of a transposed convolution of
stride 2 every second output sees a tap. So a constant input of 1 gives, over all positions,

    mean y = sum over taps t of reach_t W_t,      reach_t between 0 and 1.

Example:
    A kernel of 3 with padding 1 over 4 positions: the first and the last tap meet 3 of the 4
    inputs, so reach = (3/4, 1, 3/4). Transposed, a kernel of 4 with stride 2: each about 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch

from graphprune.core.graph import Op


def reach(ops: Sequence[Op], kernel: Sequence[int], transposed: bool) -> torch.Tensor | None:
    """The share of output positions at which each tap meets an input.

    Args:
        ops: Convolutions of one weight, of either frontend.
        kernel: The lengths of the kernel.
        transposed: Whether they are transposed ones.

    Returns:
        Shares in the shape of the kernel, in float64; None where the attributes of an operation do
        not explain the length of its result.
    """
    total, positions = torch.zeros(tuple(kernel), dtype=torch.float64), 0
    for op in ops:
        met = _met(op, kernel, transposed)
        if met is None:
            return None
        counts = torch.ones((), dtype=torch.float64)
        for one in met:
            counts = counts[..., None] * torch.tensor(one, dtype=torch.float64)
        total += counts
        positions += prod(op.outputs[0].shape[-len(kernel) :])
    return total / max(positions, 1)


def _met(op: Op, kernel: Sequence[int], transposed: bool) -> list[list[int]] | None:
    """How many inputs each tap meets, for each dimension of the kernel."""
    x = op.inputs[0]
    assert x is not None
    number = len(kernel)
    before, after = x.shape[-number:], op.outputs[0].shape[-number:]
    strides = _each(_attr(op, "stride", "strides"), number, 1)
    dilations = _each(_attr(op, "dilation", "dilations"), number, 1)
    given = _attr(op, "padding", "pads")
    manner = str(given if isinstance(given, str) else op.attrs.get("auto_pad") or "").lower()
    out = []
    for i, (taps, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        # A transposed convolution is a convolution's transpose: from its result to its input.
        wide, narrow = int(before[i]), int(after[i])
        if transposed:
            wide, narrow = narrow, wide
        span = dilation * (taps - 1) + 1
        if manner.startswith("same"):
            whole = max((narrow - 1) * stride + span - wide, 0)
            first = whole - whole // 2 if manner.endswith("lower") else whole // 2
        else:
            numbers = None if isinstance(given, str) else given
            first = _each(numbers, number, 0)[i]
            ends = _each(numbers, 2 * number, 0) if _paired(numbers, number) else None
            whole = first + (first if ends is None else ends[number + i])
        if (wide + whole - span) // stride + 1 != narrow:
            return None
        starts = range(-first, narrow * stride - first, stride)
        out.append([sum(0 <= at + tap * dilation < wide for at in starts) for tap in range(taps)])
    return out


def _attr(op: Op, *names: str) -> Any:
    return next((op.attrs[name] for name in names if op.attrs.get(name) is not None), None)


def _paired(numbers: Any, number: int) -> bool:
    """Whether paddings are told for both ends of each dimension."""
    return isinstance(numbers, Sequence) and len(numbers) == 2 * number


def _each(numbers: Any, count: int, default: int) -> list[int]:
    """One number for each dimension, where one may be given for all."""
    if numbers is None:
        return [default] * count
    found = [int(n) for n in numbers] if isinstance(numbers, Sequence) else [int(numbers)]
    return found * count if len(found) == 1 else found[:count] + found[len(found) : count]
