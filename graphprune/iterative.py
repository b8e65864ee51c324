"""Shrinking in several steps, with room for fine-tuning between them, that can be interrupted.

After each step the model, the fraction that is gone, and the number of the step are all that the
next one needs; they are what is saved.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from graphprune.choice.solve import TOLERANCE
from graphprune.core.errors import GraphPruneError
from graphprune.core.files import write_whole
from graphprune.costs.registry import Counting
from graphprune.frontends.torch.wrapped import unwrapped
from graphprune.plan import Plan, made
from graphprune.planning import PlanOptions, planned
from graphprune.statistics.batches import read_batches

STEP_OPTIONS = frozenset({"schedule", "initial_ratio", "callback", "state"})
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
        **options: As for `plan`.

    Raises:
        GraphPruneError: An option is none that could be meant, or the file belongs to another
            model or another schedule.
    """
    model = unwrapped(model).model
    if not isinstance(model, nn.Module):
        raise GraphPruneError(f"several steps need a torch.nn.Module, not a {type(model).__name__}")
    ratios = _schedule(ratio, steps, schedule, initial_ratio, options)
    small, done, spent = (model, 0, 0.0) if state is None else _resumed(Path(state), model, ratios)
    if options.get("data") is not None:
        options["data"] = read_batches(options["data"], model)  # a generator serves once
    for number in range(done + 1, steps + 1):
        left = 1 - (1 - ratios[number - 1]) / (1 - spent)
        asked = left if left > TOLERANCE / 2 else 0.0
        step = made(planned(small, asked, of, cast(PlanOptions, options)))
        small = step.apply()
        assert step.report is not None
        spent = 1 - (1 - spent) * (1 - step.report.achieved)
        if callback is not None:
            returned = callback(small, Step(number, steps, ratios[number - 1], step))
            small = returned if isinstance(returned, nn.Module) else small
        if state is not None:
            _save(Path(state), small, number, spent, ratios)
    return small


def _schedule(
    ratio: float | None, steps: int, schedule: str, initial: float, options: Mapping[str, Any]
) -> list[float]:
    """The fraction that should be gone after each step."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise GraphPruneError(f"steps is a positive integer, not {steps!r}")
    if schedule not in SCHEDULES:
        raise GraphPruneError(f"no schedule {schedule!r}: choose from {', '.join(SCHEDULES)}")
    if options.get("budget"):
        raise GraphPruneError("steps need one ratio: leave out budget")
    end = 0.5 if ratio is None else ratio
    for name, value in (("ratio", end), ("initial_ratio", initial)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise GraphPruneError(
                f"{name} is the fraction to remove, 0 <= {name} < 1, not {value!r}"
            )
    if initial > end:
        raise GraphPruneError(f"initial_ratio {initial:g} is above the final ratio {end:g}")
    first = 1 if initial == 0 else 0  # a schedule from a ratio starts with it
    last = max(steps - 1 + first, 1)
    shares = [1.0] if steps == 1 else [(i + first) / last for i in range(steps)]
    return [SCHEDULES[schedule](initial, end, share) for share in shares]


def _save(path: Path, model: nn.Module, number: int, spent: float, ratios: list[float]) -> None:
    """Write the state of the work, whole or not at all."""
    content = io.BytesIO()
    state = {"step": number, "spent": spent, "ratios": ratios, "model": model}
    try:
        torch.save(state, content)
    except Exception as error:
        raise GraphPruneError(
            f"the state cannot be saved: {type(model).__name__} cannot be pickled ({error})"
        ) from error
    write_whole(path, content.getvalue())


def _resumed(path: Path, model: nn.Module, ratios: list[float]) -> tuple[nn.Module, int, float]:
    """The model as the last step left it, that step, and what it had removed."""
    if not path.exists():
        return model, 0, 0.0
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
    return found.to(place), number, spent
