"""estimate: about how long it takes to give layers new weights by what they read, on one core.

    steps * (multiply-accumulates of a matrix product * a + numbers * b)

for whatever multiplies a layer's weights by its second moments step by step, and the moments of the
rows themselves. Fitted to ResNet-18, MobileNetV2, ViT-Ti and ViT-S; right within a factor of three
there.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from graphprune.core.groups import Dependencies
from graphprune.sparsity.layers import Layer
from graphprune.statistics.constants import (
    ROWS_ENOUGH,
    ROWS_PER_CHANNEL,
    SECONDS_PER_PRODUCT,
)
from graphprune.statistics.samples import captured

_DOUBLE = 2.0  # times as long in double precision
_TOUCHED = 2.5e-8  # seconds for each number of a matrix in a step: masks, sums, sorting


def gathering(deps: Dependencies, layers: Sequence[Layer], number: int) -> float:
    """Estimated seconds of the second moments of what layers read.

    Args:
        deps: The analysis.
        layers: The layers.
        number: Samples.
    """
    macs = 0.0
    for layer in layers:
        view = layer.view
        positions = prod(layer.ops[0].outputs[0].shape) / (view.outputs * view.groups)
        rows = number * positions / captured(deps)
        rows = min(rows, max(ROWS_PER_CHANNEL * view.columns, ROWS_ENOUGH))
        macs += rows * view.columns**2 * view.groups
    return macs * SECONDS_PER_PRODUCT


def stepping(layers: Sequence[Layer], steps: float, narrow: int) -> float:
    """Estimated seconds of so many products of weights and second moments, and of one inverse.

    Args:
        layers: The layers.
        steps: Products for each layer.
        narrow: Columns below which they are in double precision.
    """
    total = 0.0
    for layer in layers:
        view = layer.view
        each = SECONDS_PER_PRODUCT * (_DOUBLE if view.columns < narrow else 1.0)
        square = view.columns**2 * view.groups
        total += steps * (view.outputs * square * each + layer.size * _TOUCHED)
        total += square * view.columns * each
    return total
