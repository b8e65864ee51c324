"""forecast: about how long statistics, loss curves, refit and descent will take.

    seconds = (counts * constants of one core) * (one run as timed / the same run as estimated)

The counts are those that choices of `effort="auto"` follow. A single timed run tells how fast this
machine is at present; it is made where the first factor alone promises more than a moment.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from graphprune.compensation.constants import (
    CUBE_SECONDS,
    PARTS,
    PERTURBED_MACS,
    POLISH_EASY,
    POLISH_SECONDS,
    POLISH_STEPS,
    POLISH_STEPS_BEST,
    POLISH_STEPS_FEWER,
    POLISH_STEPS_FEWEST,
    REFIT_PART,
    SENSED_LEAST,
    SENSED_MACS,
    SENSED_MOST,
    STEP_SAMPLES,
    SYSTEMS,
)
from graphprune.compensation.consumers import find_consumers
from graphprune.compensation.polish import trial_steps
from graphprune.core.axes import atoms
from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.engine.run import resized
from graphprune.statistics.constants import BACKWARD_FACTOR
from graphprune.statistics.estimate import macs_of, seconds, turning_seconds
from graphprune.statistics.made.sample import making, numbered
from graphprune.statistics.samples import affordable, captured, results

TIMED_TWICE = 1.0  # estimated seconds up to which a run is timed twice: a first one is slow


@dataclass(frozen=True)
class Forecast:
    """Estimated seconds of each stage on one core.

    Attributes:
        number: Samples.
        making: Reading or making inputs.
        running: One run over all of them.
        sensing: Sensitivities, which are part of weighing.
        weighing: Sensitivities and loss curves.
        solving: The refit.
        polishing: The descent.
    """

    number: int
    making: float
    running: float
    sensing: float
    weighing: float
    solving: float
    polishing: float


def forecast(
    program: Program,
    deps: Dependencies,
    wanted: int,
    effort: str,
    granted: float | None,
    own: bool,
    most: int | None = None,
) -> Forecast:
    """Estimate each stage.

    Args:
        program: The captured model.
        deps: The analysis.
        wanted: Samples to read or make.
        effort: As for `graphprune.plan`, by name.
        granted: Seconds that all may take; None where `effort` is a name.
        own: Whether the caller gave data.
        most: Most samples that passes over them have time for; None: as many as there are.
    """
    if own:
        number, made = affordable(deps, min(wanted, most or wanted)), 0.0
    elif program.original is not None:  # runs of the caller's own code: at least what parts take
        number = numbered(deps, wanted, effort)
        made = seconds(deps, number, 1) / BACKWARD_FACTOR
    else:
        number, made = making(deps, program.flat_inputs(), wanted, effort, granted, most)
    run = seconds(deps, number, 1) / BACKWARD_FACTOR
    found = find_consumers(deps).by_op
    readers = dict.fromkeys((group.axis for group in deps.groups), 0)
    for consumer in (c for several in found.values() for c in several):
        for axis in atoms(deps.dims[consumer.value][consumer.channel]):
            if axis in readers:
                readers[axis] += 1
    cubes = sum(g.size**3 * min(readers[g.axis], SYSTEMS) for g in deps.groups) * CUBE_SECONDS
    sensing = _sensed(deps, number, len(found))
    weighing = 2 * run + sensing + cubes
    solving = 2 * run + REFIT_PART * cubes
    steps = 0
    if deps.source.engine.differentiable and effort != "fast":
        steps = descent_steps(deps, max(number // PARTS, 1), effort)
    each = min(max(number // PARTS, 1), captured(deps) * PARTS)
    polishing = descent_seconds(deps, each, steps) + (solving if steps else 0.0)
    if granted is not None:
        polishing = max(granted - made - weighing - solving, 0.0) if steps else 0.0
    return Forecast(number, made, run, sensing, weighing, solving, polishing)


def _sensed(deps: Dependencies, number: int, ops: int) -> float:
    """Estimated seconds of the sensitivities: by gradients, or of perturbed runs."""
    macs = max(macs_of(deps), 1.0)
    if deps.source.engine.differentiable:
        most = min(max(int(SENSED_MACS / macs), SENSED_LEAST), SENSED_MOST)
        return seconds(deps, min(most, number), 1)
    if ops / 2 * SENSED_LEAST * macs > PERTURBED_MACS:
        return 0.0
    return ops / 2 * seconds(deps, SENSED_LEAST, 1) / BACKWARD_FACTOR


def descent_steps(deps: Dependencies, each: int, effort: str) -> int:
    """Steps of the descent by effort, 0 for none.

    Args:
        deps: The analysis.
        each: Samples in a step.
        effort: As for `graphprune.plan`, by name.
    """
    if effort != "auto":
        return POLISH_STEPS_BEST if effort == "best" else POLISH_STEPS
    tried = {
        POLISH_STEPS: POLISH_EASY * POLISH_SECONDS,
        POLISH_STEPS_FEWER: POLISH_SECONDS,
        POLISH_STEPS_FEWEST: POLISH_SECONDS,
    }
    return next((n for n, most in tried.items() if descent_seconds(deps, each, n) <= most), 0)


def descent_seconds(deps: Dependencies, each: int, steps: int) -> float:
    """Estimated seconds of the trial and the descent on one core.

    Args:
        deps: The analysis.
        each: Samples in a step.
        steps: Steps of the descent.
    """
    if not steps:
        return 0.0
    trial = trial_steps(steps)
    turning = turning_seconds(find_consumers(deps).weights)
    runs = seconds(deps, min(each, STEP_SAMPLES), trial + steps)
    return runs + (trial + steps) * turning


def slowness(program: Program, deps: Dependencies) -> float:
    """How many times as long as estimated a run takes on this machine, at present."""
    batch = captured(deps)
    estimated = seconds(deps, batch, 1) / BACKWARD_FACTOR
    chunk, attrs = tuple(program.flat_inputs()), resized(deps, {}, batch)
    taken = []
    for _ in range(2 if estimated < TIMED_TWICE else 1):
        start = time.perf_counter()
        for tensor in results(deps, chunk, attrs).values():
            tensor.cpu()  # waits for the device
        taken.append(time.perf_counter() - start)
    return min(taken) / estimated
