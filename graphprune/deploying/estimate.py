"""estimate: about how long a deployment takes besides its plan, on one core."""

from __future__ import annotations

from collections.abc import Collection

from graphprune.pipeline import Work
from graphprune.quantising.files import RANGES
from graphprune.quantising.quantise import JUDGED, SAMPLES
from graphprune.statistics.constants import BACKWARD_FACTOR
from graphprune.statistics.estimate import seconds
from graphprune.statistics.made.plain import painting
from graphprune.training.recover import takes

MADE = 256  # inputs that are made where there are no data


def besides(
    work: Work, stages: Collection[str], number: int | None, judged: int, epochs: int
) -> float:
    """Estimated seconds of training, of int8, and of looking at what every stage answers.

    All kinds of int8 are tried: static ranges are calibrated and judged, the others judged.

    Args:
        work: The work on the plan once groups are known.
        stages: Those that are left to be done.
        number: Samples of the caller's data; None where inputs are made.
        judged: Inputs that stages are compared on.
        epochs: Passes of the training over the samples.
    """
    deps, likes = work.deps, work.program.flat_inputs()
    each = seconds(deps, 1, 1) / BACKWARD_FACTOR
    made = 0.0 if number is not None else painting(likes, MADE)
    total = made + len(stages) * judged * each
    if "recover" in stages:
        found = work.statistics().on().forecast("auto") if number is None else None
        total += takes(deps, number or MADE, epochs) + (0.0 if found is None else found.making)
    if "int8" in stages:
        samples = min(number or MADE, SAMPLES)
        held = samples / JUDGED  # the float model answers them too
        static, dynamic = RANGES * samples + held, RANGES * held + held
        alone = 2 * held
        total += made + (static + dynamic + alone) * each
    return total
