"""Calibration: samples for one model, and what is done with them: loss curves, refit, descent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import ParamSpec, TypeVar

import numpy as np

from graphprune.compensation.compensate import Compensation, compensate
from graphprune.compensation.constants import (
    AUTO_MAKING,
    AUTO_SECONDS,
    ERROR_NEGLIGIBLE,
    ERROR_SETTLED,
    MAKING_TIME,
    PASSES_AUTO,
    PASSES_SECONDS,
    PASSES_TIME,
    PASSES_TIMED,
    POLISH_STEPS,
    POLISH_TIME,
    SAMPLES_LEAST,
    SENSING_TIME,
)
from graphprune.compensation.consumers import untrained
from graphprune.compensation.curves import loss_curves
from graphprune.compensation.forecast import Forecast, descent_steps, forecast, slowness
from graphprune.compensation.options import Options
from graphprune.compensation.polish import parts, polish
from graphprune.core.allowance import Allowance
from graphprune.core.batch import Batch
from graphprune.core.cuts import Cuts
from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.core.progress import progress
from graphprune.importance import Scores
from graphprune.importance.freedom import Masks
from graphprune.importance.score import score
from graphprune.statistics.constants import BACKWARD_FACTOR, PASSES
from graphprune.statistics.estimate import seconds
from graphprune.statistics.made.sample import sample, sample_parts
from graphprune.statistics.samples import Samples, affordable
from graphprune.statistics.supplied import read

P = ParamSpec("P")
R = TypeVar("R")

SYNTHESISING, WEIGHING, COMPENSATING, POLISHING = STAGES = (
    "synthesising inputs", "weighing channels", "compensating", "polishing",
)  # fmt: skip
"""Labels of the bars of all stages, in order."""

_NAMED = 3
"""Most operations that a note names."""


class Calibration:
    """The samples of one captured model, and compensation with them.

    Where a stage fails, or samples cannot be had, compensation ends and `note` says why; with
    `compensate=True` it is an error.

    Args:
        program: The captured model.
        deps: The analysis.
        options: What the caller asks for.

    Attributes:
        note: What was done, or why nothing was, for the report.
        left: Names of operations that could not be compensated, with the reason.
        options: What the caller asks for.
        unread: Numbers of the groups that no linear operation reads: their curves predict nothing.
        unit: The loss that `levels` are in units of; None before they are known.
    """

    def __init__(self, program: Program, deps: Dependencies, options: Options) -> None:
        self.note = ""
        self.unit: float | None = None
        self.left: dict[str, str] = {}
        self.unread: set[int] = set()
        self._program = program
        self._deps = deps
        self.options = options
        self._samples: Samples | None = None
        self._allowed = self._clock()
        self._wanted = options.compensate is not False
        self._after: dict[str, float] = {}
        self._forecasts: dict[str | float, Forecast] = {}
        if options.compensate is False:
            self.note = "off"
        elif options.compensate == "auto" and options.data is None:
            if untrained(deps):
                why = "the model looks untrained: its normalisation layers are as they start"
                self._give_up(why)
            elif program.doubt:
                self._give_up(program.doubt)

    def _clock(self) -> Allowance:
        """The time that is granted, from now on."""
        if self.options.granted is not None:
            return Allowance(self.options.granted)
        return Allowance(AUTO_SECONDS) if self.options.effort == "auto" else Allowance()

    def _give_up(self, why: str) -> None:
        """End compensation for a reason; an error where the caller insists on it."""
        if self.options.compensate is True:
            raise GraphPruneError(f"cannot compensate: {why}")
        self._wanted = False
        self.note = f"none: {why}"

    @property
    def wanted(self) -> bool:
        """Whether there is anything to take statistics for, as far as that is known."""
        return self._wanted

    def on(self) -> Calibration:
        """The same where compensation is off: statistics for whom needs them all the same."""
        if self._wanted:
            return self
        return Calibration(self._program, self._deps, replace(self.options, compensate=True))

    def forecast(self, effort: str | float) -> Forecast | None:
        """Estimated seconds on one core, with an effort; None where nothing is to be done."""
        asked = replace(self.options, effort=effort)
        own = asked.data is not None
        if not self._wanted:
            return None
        if effort not in self._forecasts:
            most = self._passed(asked)
            number = asked.samples() if asked.granted is None else most
            self._forecasts[effort] = forecast(
                self._program, self._deps, number, asked.manner, asked.granted, own, most
            )
        return self._forecasts[effort]

    def expect(self, after: dict[str, float]) -> None:
        """Let bars tell what is left of all: seconds of what follows a stage, by its label."""
        self._after = after

    def samples(self) -> Samples | None:
        """The samples, read or made at the first call; None where compensation is off or ended."""
        if self._wanted and self._samples is None:
            self._samples = self._read() if self.options.data is not None else self._made()
            if self._samples is not None:
                self.note = f"statistics from {self._samples.origin}"
        return self._samples if self._wanted else None

    def _read(self) -> Samples:
        assert self.options.data is not None
        most = affordable(self._deps, self._passed(self.options))
        found = read(self._program, self._deps, self.options.data, most)
        if self.options.granted is None:  # what a loader takes is no work of ours
            self._allowed = self._clock()
        return found

    def _made(self) -> Samples | None:
        effort, seed = self.options.manner, self.options.seed
        most = self._passed(self.options)
        number = self.options.samples() if self.options.granted is None else most
        with self._progress(SYNTHESISING) as advance:
            if self._program.original is not None:
                return self._made_for_parts(number, effort, seed)
            likes = self._program.flat_inputs()
            free = self.options.granted is None
            allowed = self._allowed.part(AUTO_MAKING if free else MAKING_TIME)
            granted = None if free else allowed.left
            return self._attempt(
                sample, self._deps, likes, number, effort, seed, advance, granted, allowed, most
            )

    def _passed(self, asked: Options) -> int:
        """How many samples passes over them have time for, of as many as the effort asks for."""
        wanted, granted = asked.samples(), asked.granted
        if asked.manner != "auto":
            return wanted
        each = PASSES * seconds(self._deps, wanted, 1) / BACKWARD_FACTOR / wanted
        clock = PASSES_AUTO * AUTO_SECONDS if granted is None else PASSES_TIME * granted
        time = PASSES_SECONDS if granted is None else clock
        if wanted * each > PASSES_TIMED * clock:
            time = min(time, clock / (self.pace or 1.0))
        return int(min(max(time / each, SAMPLES_LEAST), wanted))

    @cached_property
    def pace(self) -> float | None:
        """How many times as long as estimated a run takes at present; None where it does not run.

        It is timed once.
        """
        try:
            return slowness(self._program, self._deps)
        except (RuntimeError, IndexError, TypeError, ValueError):  # told where samples pass
            return None

    def _made_for_parts(self, number: int, effort: str, seed: int) -> Samples | None:
        try:
            found = sample_parts(self._program, self._deps, number, effort, seed)
            why = ""
        except Exception as error:  # the caller's code may refuse inputs that are made up
            found, why = None, f" ({first_line(error)})"
        if found is None:
            self._give_up(f"no inputs can be made for a model captured in parts{why}: pass data=")
        return found

    def levels(self) -> list[Scores] | None:
        """A loss curve for each group: a level for each index. None where there are no samples."""
        samples = self.samples()
        if samples is None:
            return None
        sensing = self._allowed.part(SENSING_TIME)
        with self._progress(WEIGHING) as advance:
            curves = self._attempt(loss_curves, self._deps, samples, advance, sensing)
        if curves is None:
            return None
        self.unread = {number for number, curve in enumerate(curves.levels) if curve is None}
        self.unit = curves.unit
        norms = score(self._deps, "l2")
        return [
            _shares(norm) if curve is None else curve
            for curve, norm in zip(curves.levels, norms, strict=True)
        ]

    def solve(self, cuts: Cuts, free: Masks) -> Compensation | None:
        """The weights of a narrowed graph after refit and descent; None without samples.

        Args:
            cuts: The narrowed graph.
            free: The indices whose removal changes no result.
        """
        samples = self.samples() if cuts.keep else None
        if samples is None:
            return None
        with self._progress(COMPENSATING) as advance:
            found = self._attempt(compensate, cuts, samples, free, advance)
        if found is None:
            return None
        self.left = found.left
        if found.unshifted:
            names = ", ".join(found.unshifted[:_NAMED]) + (
                ", …" if found.unshifted[_NAMED:] else ""
            )
            self.note += f", without a constant where a bias is computed ({names})"
        return self._polished(cuts, samples, found, free)

    def _polished(
        self, cuts: Cuts, samples: Samples, found: Compensation, free: Masks
    ) -> Compensation:
        """The weights after a descent, where the effort allows it and it helps."""
        if not self._deps.source.engine.differentiable or self.options.effort == "fast":
            return found
        if not found.values and not found.left:  # nothing needed compensation
            return found
        steps = self._steps(parts(self._deps, samples).size)
        if not steps:
            return found
        with self._progress(POLISHING) as advance:
            try:
                enough = ERROR_SETTLED if self.options.effort == "auto" else ERROR_NEGLIGIBLE
                better = polish(cuts, samples, found, free, steps, advance, self._allowed, enough)
            except RuntimeError:  # no gradients, or it does not run at this batch size
                return found
        if better is not found:
            self.note += ", polished by gradient descent on them"
        return better

    def _steps(self, each: int) -> int:
        """Steps of the descent that time allows, 0 for none.

        Args:
            each: Samples in a step.
        """
        if self.options.granted is not None:  # the clock ends the descent
            return POLISH_STEPS if self._allowed.left > POLISH_TIME * self.options.granted else 0
        return descent_steps(self._deps, each, self.options.manner)

    def _progress(self, label: str) -> AbstractContextManager[Callable[[float], None]]:
        return progress(label, self._after.get(label))

    def _attempt(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Run a stage; where the captured graph fails, compensation ends, not the plan."""
        try:
            return work(*args, **kwargs)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            self._give_up(f"the captured graph does not run on other inputs ({first_line(error)})")
            return None


def inputs_for(
    program: Program, deps: Dependencies, batches: Sequence[Batch] = (), seed: int = 0
) -> Samples | None:
    """Inputs for statistics of a model, without any compensation: the caller's, or made ones.

    Args:
        program: The captured model.
        deps: The analysis.
        batches: The caller's data; where there are none, inputs are made.
        seed: For inputs that are made.

    Returns:
        The samples; None where none can be made.
    """
    options = Options(compensate=True, seed=seed)
    return Calibration(program, deps, options.reading(batches) if batches else options).samples()


def _shares(norms: Scores) -> Scores:
    """A loss curve for a group that no linear operation reads: the cumulative share of its norm."""
    order = np.argsort(norms, kind="stable")
    curve = np.empty(len(norms))
    total = float(norms.sum())
    curve[order] = np.cumsum(norms[order]) / total if total > 0 else (order + 1) / len(norms)
    return curve
