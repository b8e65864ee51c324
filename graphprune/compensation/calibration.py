"""Calibration: the statistics of one model, where they come from, and what they are used for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar

import numpy as np

from graphprune.compensation.compensate import Compensation, compensate
from graphprune.compensation.consumers import untrained
from graphprune.compensation.polish import STEPS, parts, polish
from graphprune.compensation.weigh import weigh
from graphprune.core.allowance import Allowance
from graphprune.core.batch import Batch
from graphprune.core.cuts import Cuts
from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.core.progress import progress
from graphprune.importance import Scores
from graphprune.importance.score import score
from graphprune.statistics.estimate import seconds
from graphprune.statistics.made.sample import sample, sample_parts
from graphprune.statistics.samples import Samples, affordable
from graphprune.statistics.supplied import read

P = ParamSpec("P")
R = TypeVar("R")

EFFORTS = ("auto", "fast", "balanced", "best")
_DESCENT = 40.0  # seconds; where it would take longer, so few steps gain nothing
_MAKING, _SOLVING = 0.4, 0.2  # of seconds granted, for inputs, and for passes over them
_BRIEF = 0.1  # of them, in which a descent gains nothing
_PASSES, _FEWEST = 4, 16  # over samples, of which there are at least so many
_NAMED = 3  # operations in a note
_WANTED = {"fast": 64, "balanced": 256, "best": 1024}


@dataclass(frozen=True)
class Options:
    """What the caller asks for.

    Attributes:
        compensate: True, False, or "auto": where there is something to gain.
        effort: "fast", "balanced", "best", or "auto": balanced where that takes little time. Or a
            number: seconds that it may take.
        data: Inputs to take statistics from, or None.
        seed: For inputs that are made.
    """

    compensate: bool | str = "auto"
    effort: str | float = "auto"
    data: Iterable[Any] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.compensate not in (True, False, "auto"):
            raise GraphPruneError(f"compensate is True, False or 'auto', not {self.compensate!r}")
        if not (self.effort in EFFORTS if isinstance(self.effort, str) else self.granted):
            raise GraphPruneError(
                f"no effort {self.effort!r}: choose from {', '.join(EFFORTS)}, or name a number of "
                "seconds above zero"
            )

    @property
    def granted(self) -> float | None:
        """Seconds that compensation may take by the clock, or None where no number is named."""
        if isinstance(self.effort, bool) or not isinstance(self.effort, int | float):
            return None
        return float(self.effort) if 0 < self.effort < float("inf") else None

    @property
    def manner(self) -> str:
        """The effort by name: a number of seconds is divided as "auto" does."""
        return self.effort if isinstance(self.effort, str) else "auto"

    def samples(self) -> int:
        """How many samples are wanted."""
        return _WANTED.get(self.manner, _WANTED["balanced"])

    def reading(self, batches: Sequence[Batch]) -> Options:
        """The same options, with data."""
        return replace(self, data=[batch.kwargs or batch.args for batch in batches])


class Calibration:
    """Statistics of one captured model.

    Attributes:
        note: What was done, or why nothing was, for the report.
        left: Operations that could not be compensated, with the reason.
        options: What the caller asks for.
    """

    def __init__(self, program: Program, deps: Dependencies, options: Options) -> None:
        self.note = ""
        self.left: dict[str, str] = {}
        self._program = program
        self._deps = deps
        self.options = options
        self._samples: Samples | None = None
        granted = options.granted
        self._allowed = Allowance() if granted is None else Allowance(granted)
        self._wanted = options.compensate is not False
        if options.compensate is False:
            self.note = "off"
        elif options.compensate == "auto" and options.data is None:
            if untrained(deps):
                why = "the model looks untrained: its normalisation layers are as they start"
                self._give_up(why)
            elif program.doubt:
                self._give_up(program.doubt)

    def _give_up(self, why: str) -> None:
        if self.options.compensate is True:
            raise GraphPruneError(f"cannot compensate: {why}")
        self._wanted = False
        self.note = f"none: {why}"

    def on(self) -> Calibration:
        """The same where compensation is off: statistics for whom needs them all the same."""
        return Calibration(self._program, self._deps, replace(self.options, compensate=True))

    def samples(self) -> Samples | None:
        """The samples, made or read when they are first needed; None where there are none."""
        if self._wanted and self._samples is None:
            self._samples = self._read() if self.options.data is not None else self._made()
            if self._samples is not None:
                self.note = f"statistics from {self._samples.origin}"
        return self._samples if self._wanted else None

    def _read(self) -> Samples:
        assert self.options.data is not None
        most = affordable(self._deps, self._number())
        return read(self._program, self._deps, self.options.data, most)

    def _made(self) -> Samples | None:
        number, effort, seed = self._number(), self.options.manner, self.options.seed
        with progress("synthesising inputs") as advance:
            if self._program.original is not None:
                return self._made_for_parts(number, effort, seed)
            likes = self._program.flat_inputs()
            granted = None if self.options.granted is None else _MAKING * self._allowed.left
            return self._attempt(sample, self._deps, likes, number, effort, seed, advance, granted)

    def _number(self) -> int:
        """How many samples are wanted, as far as passes over them fit into the time granted."""
        number = self.options.samples()
        if self.options.granted is None:
            return number
        each = _PASSES * seconds(self._deps, 1, 1)
        return int(min(max(_SOLVING * self.options.granted / each, _FEWEST), number))

    def _made_for_parts(self, number: int, effort: str, seed: int) -> Samples | None:
        try:
            found = sample_parts(self._program, self._deps, number, effort, seed)
            why = ""
        except Exception as error:  # the model's own code meets inputs that are not the caller's
            found, why = None, f" ({first_line(error)})"
        if found is None:
            self._give_up(f"no inputs can be made for a model captured in parts{why}: pass data=")
        return found

    def levels(self) -> list[Scores] | None:
        """Loss curves of all groups, or None where there are no statistics."""
        samples = self.samples()
        if samples is None:
            return None
        with progress("weighing channels") as advance:
            curves = self._attempt(weigh, self._deps, samples, advance)
        if curves is None:
            return None
        norms = score(self._deps, "l2")
        return [
            _shares(norm) if curve is None else curve
            for curve, norm in zip(curves, norms, strict=True)
        ]

    def solve(self, cuts: Cuts) -> Compensation | None:
        """New weights for a narrowed graph, or None where there are no statistics."""
        samples = self.samples() if cuts.keep else None
        if samples is None:
            return None
        with progress("compensating") as advance:
            found = self._attempt(compensate, cuts, samples, advance)
        if found is None:
            return None
        self.left = found.left
        if found.unshifted:
            names = ", ".join(found.unshifted[:_NAMED]) + (
                ", …" if found.unshifted[_NAMED:] else ""
            )
            self.note += f", without a constant where a bias is computed ({names})"
        return self._polished(cuts, samples, found)

    def _polished(self, cuts: Cuts, samples: Samples, found: Compensation) -> Compensation:
        """The solved weights after a descent, where that much time is granted."""
        if not self._deps.source.engine.differentiable or self.options.effort == "fast":
            return found
        if not found.values and not found.left:  # nothing has changed
            return found
        steps = self._steps(parts(self._deps, samples)[1])
        if not steps:
            return found
        with progress("polishing") as advance:
            try:
                better = polish(cuts, samples, found, steps, advance, self._allowed)
            except RuntimeError:  # no gradient passes, or it does not run on so few samples
                return found
        if better is not found:
            self.note += ", polished by gradient descent on them"
        return better

    def _steps(self, each: int) -> int:
        """Of the descent, with so many samples at a time: as many as time allows, 0 for none."""
        if self.options.granted is not None:  # the clock ends it
            return STEPS if self._allowed.left > _BRIEF * self.options.granted else 0
        if self.options.effort != "auto":
            return 4 * STEPS if self.options.effort == "best" else STEPS
        able = (n for n in (STEPS, STEPS // 3) if seconds(self._deps, each, 2 * n) <= _DESCENT)
        return next(able, 0)

    def _attempt(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Run a stage; what the captured graph cannot do ends compensation, not the plan."""
        try:
            return work(*args, **kwargs)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            self._give_up(f"the captured graph does not run on other inputs ({first_line(error)})")
            return None


def _shares(norms: Scores) -> Scores:
    """A curve for a group that no linear operation reads: cumulative share of its norm."""
    order = np.argsort(norms, kind="stable")
    curve = np.empty(len(norms))
    total = float(norms.sum())
    curve[order] = np.cumsum(norms[order]) / total if total > 0 else (order + 1) / len(norms)
    return curve
