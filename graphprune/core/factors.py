"""Factors: the weights of two layers in a row that stand for one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from graphprune.core.graph import Op, Value


@dataclass(frozen=True, eq=False)
class Pair:
    """Two layers in a row in place of one: `y = A (B x) + b`.

    The first has the kernel, strides and padding of the one, and no bias; the second reads each
    place by itself, and adds the bias.

    Attributes:
        weight: The weight that they stand for.
        op: The operation that reads it.
        first: B, laid out as the weight is, with fewer outputs.
        second: A, `outputs x rank`; outputs of a grouped convolution lie group after group.
        groups: Groups of a grouped convolution.
    """

    weight: Value
    op: Op
    first: torch.Tensor
    second: torch.Tensor
    groups: int = 1
