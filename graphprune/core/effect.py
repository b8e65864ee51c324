"""What an operation does with axes: the dimensions of its operands and results, and its effect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from graphprune.core.axes import Axis, Dim
from graphprune.core.graph import Value

Dims: TypeAlias = "list[Dim]"


class FromEnd(tuple[Axis, ...]):
    """The end of a dimension, for a position that is minus its length."""


class AnyLength(tuple[Axis, ...]):
    """A length that an operation is given and makes nothing of."""


Size: TypeAlias = "Dim | list[Dim | None]"

SHARE = "share"
"""What a mean over fewer is multiplied by, among the changed attributes of an operation: the share
that stays, so that it divides by as many as before."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How integers q stand for numbers: `(q - zero) * scale`.

    Attributes:
        scales: What the step between two integers is the product of; nothing where it is not told.
        zero: Which integer stands for zero; None: 0 does.
        dim: The dimension of the integers along which scale and zero point may differ.
        block: How many indices of that dimension in a row share them; 0: one, or all.
    """

    scales: tuple[Value, ...] = ()
    zero: Value | None = None
    dim: int = 0
    block: int = 0

    @property
    def held(self) -> tuple[Value, ...]:
        """All values that it refers to."""
        return self.scales if self.zero is None else (*self.scales, self.zero)


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """How bytes hold a matrix of few bits, `outputs x blocks x bytes`, the first bits lowest.

    Attributes:
        matrix: The matrix, `outputs x channels`: of the analysis alone, no operation gives it.
        dims: Its dimensions.
        scale: The step between two integers, for each block of each output.
        zero: The integers that stand for zero, packed alike or as numbers; None: the middle does.
        bias: What is added to the product with the matrix, where the operation adds it.
        bits: Of each integer.
        block: Channels in a block.
    """

    matrix: Value
    dims: Dims
    scale: Value
    zero: Value | None
    bias: Value | None
    bits: int
    block: int


@dataclass(slots=True)
class Effect:
    """What an operation does with axes, besides passing them on.

    Attributes:
        contracts: Dimensions that vanish in a sum; removing an index equals zeroing it.
        mixes: Dimensions along which results depend on each other (normalisation, softmax):
            removing an index changes what remains.
        averages: Of the dimensions that vanish those whose length the sum is divided by: removing
            an index equals zeroing it once the result is multiplied by the share that stays.
        macs: Multiply-accumulates, as a list of products of dimensions.
        sizes: Attributes that hold lengths, as the dimensions whose lengths they hold.
        pins: Attributes whose default depends on a dimension's length: their value now, and
            that dimension.
        encodings: How the integers of quantized operands stand for numbers, by place.
        made: How those of quantized results do, by place.
        packed: The matrices that operands hold in few bits, by place.
        grains: Dimensions whose lengths must be multiples of a number, for the kernel's sake.
    """

    contracts: list[Dim] = field(default_factory=list)
    mixes: list[Dim] = field(default_factory=list)
    averages: list[Dim] = field(default_factory=list)
    macs: list[tuple[Dim, ...]] = field(default_factory=list)
    sizes: dict[str, Size] = field(default_factory=dict)
    pins: dict[str, tuple[Any, Dim]] = field(default_factory=dict)
    encodings: dict[int, Encoding] = field(default_factory=dict)
    made: dict[int, Encoding] = field(default_factory=dict)
    packed: dict[int, Packing] = field(default_factory=dict)
    grains: list[tuple[Dim, int]] = field(default_factory=list)
