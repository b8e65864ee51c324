"""Estimates of time and memory from counts alone, so that no choice depends on a clock."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np

from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.costs.registry import cost_of
from graphprune.engine.muon import work_of
from graphprune.rules.readings import Reading, reading
from graphprune.statistics.constants import (
    GRADIENT_LANES,
    SECONDS_PER_ELEMENT,
    SECONDS_PER_MAC,
    SECONDS_PER_OPERATION,
    SECONDS_PER_PRODUCT,
    STEPS_TYPICAL,
)
from graphprune.statistics.samples import captured


def seconds(deps: Dependencies, number: int, steps: int = STEPS_TYPICAL) -> float:
    """Estimated seconds of a gradient descent, forwards and backwards, on one core.

        steps * (samples * (MACs * a + elements * b) + operations * c)

    Args:
        deps: The analysis.
        number: Samples in a step.
        steps: Number of steps.
    """
    each = macs_of(deps) * SECONDS_PER_MAC + elements_of(deps) * SECONDS_PER_ELEMENT
    step = number * each
    return steps * (step + len(deps.source.ops) * SECONDS_PER_OPERATION)


def synthesis_seconds(deps: Dependencies, number: int, steps: int = STEPS_TYPICAL) -> float:
    """As `seconds`, for a descent on the inputs, which needs gradients of inputs.

    The gradient of a convolution's input takes as long for one channel as for `GRADIENT_LANES`.
    Arguments as for `seconds`.
    """
    extra = 0.0
    for op in deps.source.ops:
        read = reading(op)
        if isinstance(read, Reading) and read.windows and read.groups == 1:
            channels = read.source.shape[read.channel]
            macs = prod(op.outputs[0].shape) * prod(read.weight.shape[2:]) * channels
            extra += macs * max(GRADIENT_LANES / channels - 1.0, 0.0)
    return seconds(deps, number, steps) + steps * number * extra / captured(deps) * SECONDS_PER_MAC


def turning_seconds(weights: Iterable[Value]) -> float:
    """Estimated seconds that a step of `Muon` takes besides the gradient, on one core."""
    return sum(work_of(value.tensor) for value in weights) * SECONDS_PER_PRODUCT


def elements_of(deps: Dependencies) -> float:
    """Numbers in all values that a run over one sample computes."""
    elements = sum(prod(value.shape) for op in deps.source.ops for value in op.outputs)
    return elements / captured(deps)


def macs_of(deps: Dependencies) -> float:
    """Multiply-accumulates of one sample."""
    sizes = np.array([group.size for group in deps.groups], dtype=np.float64)
    return cost_of(deps, "macs")(sizes) / captured(deps)
