"""Shrinking in several steps, with room for fine-tuning between them, that can be interrupted.

After each step the model, the fraction that is gone, and the number of the step are all that the
next one needs; they are what is saved.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from graphprune.choice.constants import RATIO_TOLERANCE
from graphprune.choice.request import check_ratios
from graphprune.core.callers import called, check_function
from graphprune.core.errors import BudgetError, GraphPruneError, OptionError, first_line, nearest
from graphprune.core.files import check_target, write_whole
from graphprune.core.progress import interruptible
from graphprune.core.scalars import tell, writer_of
from graphprune.costs.registry import Counting
from graphprune.frontends.torch.inputs import as_inputs
from graphprune.frontends.torch.wrapped import unwrapped
from graphprune.models import given, given_data
from graphprune.options import PlanOptions
from graphprune.pipeline import Work
from graphprune.planning import planned
from graphprune.plans import Plan, made
from graphprune.report.report import Report
from graphprune.statistics.batches import read_batches

STEP_OPTIONS = frozenset({"schedule", "initial_ratio", "callback", "state", "log"})
"""Options of `shrink` that speak of several steps."""

SCHEDULES: dict[str, Callable[[float, float, float], float]] = {
    "linear": lambda start, end, t: start + (end - start) * t,
    "polynomial": lambda start, end, t: end + (start - end) * (1 - t) ** 3,
    "exponential": lambda start, end, t: 1 - (1 - start) * ((1 - end) / (1 - start)) ** t,
}
"""The fraction removed after a share t of the steps. `polynomial` is the cubic of Zhu & Gupta (To
Prune, or Not to Prune, 2017): most goes early; `exponential` removes the same share of what is left
in every step."""


@dataclass(frozen=True)
class Step:
    """One step of several.

    Attributes:
        number: Counted from one.
        of: How many there are.
        ratio: The fraction of the original cost that should be gone after this step.
        plan: What this step removed from the model before it, with its report.
    """

    number: int
    of: int
    ratio: float
    plan: Plan[Any] = field(repr=False)


Callback = Callable[[Any, Step], Any]
"""Called after each step with the smaller model, to fine-tune it in place, and the step; a module
that it returns takes the model's place."""


def shrink_in_steps(
    model: Any,
    ratio: float | None,
    of: str | Counting,
    *,
    steps: int,
    schedule: str = "polynomial",
    initial_ratio: float = 0.0,
    callback: Callback | None = None,
    state: str | Path | None = None,
    log: Any = None,
    **options: Any,
) -> Any:
    """Shrink a model step by step.

    Args:
        model: The model; it is not modified.
        ratio: Fraction of the cost to remove in the end.
        of: The cost.
        steps: Number of steps.
        schedule: How the fraction grows, a name in `SCHEDULES`.
        initial_ratio: Where the schedule starts.
        callback: Called after each step.
        state: A file that is written after each step (a pickled module: open only files you
            trust). Where it exists already, the work goes on behind the step that wrote it.
        log: Takes numbers after each step, by `add_scalar(name, value, step)`; None: they are
            logged at INFO.
        **options: As for `plan`.

    Raises:
        GraphPruneError: An option is none that could be meant, or the file belongs to another
            model or another schedule.
    """
    model = unwrapped(given(model)).model
    if not isinstance(model, nn.Module):
        raise GraphPruneError(f"several steps need a torch.nn.Module, not a {type(model).__name__}")
    ratios = _schedule(ratio, steps, schedule, initial_ratio, options)
    check_function("callback", callback, "model", "step")
    writer = writer_of(log)
    place = None if state is None else check_target(state)
    if place is not None:
        _check_pickled(model)
    start = _Start(model) if place is None else _resumed(place, model, ratios)
    small, done, spent, whole = start.model, start.done, start.spent, start.whole
    check_ratios(options.get("ratios"))
    fixed = dict(options.pop("ratios", None) or {})
    if options.get("data") is not None:
        data = given_data(options["data"], model, as_inputs(options.get("example_inputs")))
        options["data"] = read_batches(data, model)  # a generator serves once
    finished = done

    def kept() -> str:
        if place is None:
            return "nothing is kept; with state=, the same call goes on behind the last step"
        return f"{finished} of {steps} steps are kept in {place}, and the same call goes on"

    with interruptible(kept):
        for number in range(done + 1, steps + 1):
            left = 1 - (1 - ratios[number - 1]) / (1 - spent)
            asked = left if left > RATIO_TOLERANCE / 2 else 0.0
            share = number / steps
            options["ratios"] = {
                layer: SCHEDULES[schedule](0.0, f, share) for layer, f in fixed.items()
            }
            work = _planned(small, asked, of, options, whole, last=number == steps and not spent)
            if number == 1 and steps > 1 and not fixed:  # whose fractions grow with the steps
                _check_reachable(work, ratios[-1])
            step = made(work)
            whole = whole or {group.name: group.size for group in step.live().deps.groups}
            small = step.apply()
            assert step.report is not None
            spent = 1 - (1 - spent) * (1 - step.report.achieved)
            tell(writer, "shrink", _scalars(step.report, spent), number)
            if callback is not None:
                about = Step(number, steps, ratios[number - 1], step)
                returned = called(f"callback(model, step) of step {number}", callback, small, about)
                small = returned if isinstance(returned, nn.Module) else small
            if place is not None:
                _save(place, small, number, spent, ratios, whole)
            finished = number
    return small


def _planned(
    small: nn.Module,
    asked: float,
    of: str | Counting,
    options: Mapping[str, Any],
    whole: Mapping[str, int],
    last: bool,
) -> Work:
    """The plan of one step; what is too little for a single index is left to the next.

    Args:
        small: The model before it.
        asked: Fraction of its cost to remove.
        of: The cost.
        options: As for `plan`.
        whole: Sizes of groups before the first step.
        last: Whether there is no other step to remove anything.
    """
    plan = cast(PlanOptions, options)
    try:
        return planned(small, asked, of, plan, whole)
    except BudgetError as error:
        if last or error.closest is None or error.closest <= asked:
            raise
        return planned(small, 0.0, of, plan, whole)


def _check_reachable(work: Work, ratio: float) -> None:
    """Refuse what the last step could not reach, before the first is trained.

    Raises:
        BudgetError: It cannot be reached.
    """
    request = work.asked.request
    if work.has("scores") and not request.threshold and "latency" not in request.asked():
        work.chooser.choose(replace(request, ratio=ratio), work.scores)


def _scalars(report: Report, spent: float) -> dict[str, float]:
    """What a step came to."""
    found = {"removed": spent, "parameters": report.params[1], "macs": report.macs[1]}
    return (
        found if report.agreement is None else {**found, "step_agreement": report.agreement.share}
    )


def _schedule(
    ratio: float | None, steps: int, schedule: str, initial: float, options: Mapping[str, Any]
) -> list[float]:
    """The fraction that should be gone after each step."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise GraphPruneError(f"steps is a positive integer, not {steps!r}")
    if not isinstance(schedule, str) or schedule not in SCHEDULES:
        raise OptionError(f"no schedule {schedule!r}: {nearest(schedule, SCHEDULES)}")
    if options.get("budget"):
        raise GraphPruneError("steps need one ratio: leave out budget")
    if ratio is None and options.get("ratios"):
        raise GraphPruneError(
            "steps follow a ratio of the whole model: pass ratio= too, beside ratios="
        )
    end = 0.5 if ratio is None else ratio
    for name, value in (("ratio", end), ("initial_ratio", initial)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise GraphPruneError(
                f"{name} is the fraction to remove, 0 <= {name} < 1, not {value!r}"
            )
    if initial > end:
        raise GraphPruneError(f"initial_ratio {initial:g} is above the final ratio {end:g}")
    if steps == 1:
        return [end]
    first = 1 if initial == 0 else 0  # a schedule from a ratio starts with it
    last = max(steps - 1 + first, 1)
    return [SCHEDULES[schedule](initial, end, (i + first) / last) for i in range(steps)]


@dataclass(frozen=True)
class _Start:
    """Where the work starts: the model, steps done, what they removed, groups' first sizes."""

    model: nn.Module
    done: int = 0
    spent: float = 0.0
    whole: dict[str, int] = field(default_factory=dict)


class _Nowhere(io.RawIOBase):
    """A file that forgets what is written to it."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return memoryview(data).nbytes


def _check_pickled(model: nn.Module) -> None:
    """Refuse a model that no state could be saved of, before the first step's work.

    Raises:
        GraphPruneError: It cannot be pickled; says why, and the way out.
    """
    try:
        torch.save(model, io.BufferedWriter(_Nowhere()))
    except Exception as error:
        raise GraphPruneError(
            f"state: {type(model).__name__} cannot be pickled ({first_line(error)}), so its state "
            "could not be saved after a step. Define its classes and functions at the top of a "
            "module, and take parametrizations off (torch.nn.utils.parametrize."
            "remove_parametrizations); or leave out state= and save model.state_dict() in callback="
        ) from error


def _save(
    path: Path,
    model: nn.Module,
    number: int,
    spent: float,
    ratios: list[float],
    whole: Mapping[str, int],
) -> None:
    """Write the state of the work, whole or not at all."""
    content = io.BytesIO()
    state = {
        "step": number, "spent": spent, "ratios": ratios, "model": model, "whole": dict(whole),
    }  # fmt: skip
    try:
        torch.save(state, content)
    except Exception as error:
        raise GraphPruneError(
            f"the state cannot be saved: {type(model).__name__} cannot be pickled ({error})"
        ) from error
    write_whole(path, content.getvalue())


def _resumed(path: Path, model: nn.Module, ratios: list[float]) -> _Start:
    """The model as the last step left it, that step, and what it had removed."""
    if not path.exists():
        return _Start(model)
    try:
        state = torch.load(path, map_location="cpu", weights_only=False)
        found, number, spent = state["model"], int(state["step"]), float(state["spent"])
        known = [float(ratio) for ratio in state["ratios"]]
    except Exception as error:
        raise GraphPruneError(f"{path} holds no state of a shrinking: {error}") from error
    if type(found).__name__ != type(model).__name__ or known != ratios:
        raise GraphPruneError(
            f"{path} belongs to a {type(found).__name__} shrunk to {known[-1]:g} in {len(known)} "
            "steps of another schedule: name another file, or delete it to start anew"
        )
    place = next(model.parameters()).device
    return _Start(found.to(place), number, spent, dict(state.get("whole", {})))
