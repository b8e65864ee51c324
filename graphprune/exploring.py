"""How far a model can shrink, coupled group by coupled group (`sensitivity`).

The model is captured, its statistics taken and its indices scored once; each group is then cut
alone, and compared. `sweeping` takes the same way to several sizes of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any, cast

import numpy as np
from typing_extensions import Unpack

from graphprune.choice.select import Selection
from graphprune.core.callers import check_function, judged
from graphprune.core.errors import OptionError
from graphprune.core.progress import interruptible, progress
from graphprune.costs.registry import Counting, cost_of
from graphprune.foretelling import UNPROVEN, Beyond
from graphprune.frontends.torch.inference import undisturbed
from graphprune.importance.constants import NEEDED
from graphprune.options import PlanOptions, check_options
from graphprune.pipeline import Pass, Pipeline, Work
from graphprune.pipeline.pipeline import run
from graphprune.pipelines import DEFAULT
from graphprune.planning import planned
from graphprune.report.sensitivity import Sensitive, Sensitivity

Metric = Callable[[Any], float]
"""What a model is worth: a function of the finished model, larger being better."""


@undisturbed
def sensitivity(
    model: Any,
    ratio: float = 0.5,
    *,
    metric: Metric | None = None,
    **options: Unpack[PlanOptions],
) -> Sensitivity:
    """Measure what it costs to shrink each coupled group, the others staying whole.

    A single layer that is coupled to others cannot shrink alone: groups can, and are the unit.
    Both are told: what the loss curves predict, and what is lost when the group is really cut.

    Args:
        model: As for `plan`; it is not modified.
        ratio: Fraction of the group's indices to remove; at least one stays.
        metric: What a model is worth, such as its accuracy: a function of the finished model.
        **options: As for `plan`. `effort` is `"fast"` unless told: each group is compensated.

    Returns:
        A row for each group: shares in [0, 1]. `print` shows a table, `plot` draws it.

    Raises:
        OptionError: An option is none that could be meant.
        GraphPruneError: The metric fails.
        LiftError: The model cannot be captured.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> [(row.group, row.size, row.removed) for row in sensitivity(net, 0.5).rows]
        [('0.weight[0]', 16, 8)]
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise OptionError(f"ratio is the share of each group to remove, in (0, 1), not {ratio!r}")
    work, whole = scored(model, ratio, "params", metric, options, "sensitivity", None)
    out = Sensitivity(work.program.name, float(ratio), whole)
    groups = len(work.deps.groups)
    kept = "nothing is kept of a sensitivity that was not finished; a sweep takes state="
    with interruptible(lambda: kept), progress("measuring groups") as advance:
        for number in range(groups):
            out.rows.append(_alone(work, number, float(ratio), metric))
            advance((number + 1) / groups)
    return out


def _alone(work: Work, number: int, ratio: float, metric: Metric | None) -> Sensitive:
    """What it costs to shrink one group, the others staying whole."""
    group, scores = work.deps.groups[number], work.scores[number]
    params = cost_of(work.deps, "params")
    left = max(math.ceil((1 - ratio) * group.size / group.grain) * group.grain, group.grain)
    keep = np.sort(np.argsort(scores, kind="stable")[group.size - left :])
    gone = group.size - left
    selection = Selection({group.axis: keep} if gone else {}, ratio, ratio, 1, "params")
    small = made(work, selection)
    counts = work.deps.counts(selection.keep)
    level = float(np.sort(scores)[gone - 1]) if gone else NEEDED
    curved = work.rows[-1].note == _CURVES and number not in work.statistics().unread
    return Sensitive(
        group.name,
        group.size,
        gone,
        1 - float(params(counts) / params(work.deps.sizes())),
        level if curved and level < NEEDED else None,
        None if small.agreement is None else 1 - small.agreement.kept,
        measured(small, metric),
    )


_CURVES = "loss curves after compensation"  # what the pass that scores notes


def scored(
    model: Any,
    ratio: float,
    of: str | Counting,
    metric: Metric | None,
    options: PlanOptions,
    function: str,
    points: int | None,
    later: Pipeline | None = None,
    without: Collection[str] = (),
    beyond: Beyond | None = None,
) -> tuple[Work, float | None]:
    """The model captured and its indices scored, once for all points.

    The metric is tried on the model itself before anything that takes long.

    Args:
        model: As for `plan`.
        ratio: As for `plan`.
        of: As for `plan`.
        metric: What a smaller model is worth.
        options: As for `plan`.
        function: Who is called.
        points: How many smaller models will be made; None: one for each group.
        later: The passes that make them, for the estimate of time, where they are others.
        without: Passes by name that nothing will need.
        beyond: How long what the caller does besides takes.

    Returns:
        The work, and the metric of the model itself; None without one.
    """
    check_options(options, PlanOptions, function)
    check_function("metric", metric, "model")
    given = dict(options)
    passes = given.pop("passes", None) or DEFAULT
    pipeline = passes if isinstance(passes, Pipeline) else Pipeline(cast(Any, passes))
    if function == "sensitivity":
        given.setdefault("effort", "fast")
    first = [step for step in pipeline if not step.makes and step.name not in ("select", *without)]
    known = next((i for i, step in enumerate(first, 1) if "deps" in step.ensures), len(first))
    coupling = cast(PlanOptions, {**given, "passes": Pipeline(first[:known])})
    later = later or pipeline
    work = planned(model, ratio, of, coupling, later=later, points=points, beyond=beyond)
    work.pipeline = pipeline
    whole = None if metric is None else _whole(work, metric)
    for step in first[known:]:
        run(step, work)
    return work, whole


def made(work: Work, selection: Selection) -> Work:
    """The smaller model of one choice, from the statistics that were taken once; not proven."""
    statistics = work.statistics()
    note, statistics.left = statistics.note, {}
    other = work.again(work.batches, work.asked.options, work.unseen)
    other.share(statistics)
    other.choice = other.chooser.take(selection)
    assert work.pipeline is not None
    for step in making(work.pipeline):
        step.run(other)
    statistics.note = note
    return other


def making(pipeline: Pipeline) -> Iterator[Pass]:
    """What makes the smaller model, but for what proves or times it."""
    return (step for step in pipeline if step.makes and step.name not in UNPROVEN)


def _whole(work: Work, metric: Metric) -> float | None:
    """The metric of the model itself."""
    return measured(made(work, Selection({}, 0.0, 0.0, 1, "params")), metric)


def measured(made: Work, metric: Metric | None) -> float | None:
    """What a smaller model is worth; None without a metric.

    Raises:
        GraphPruneError: The metric fails, or returns no number.
    """
    if metric is None:
        return None
    small = made.program.finish(made.expressed, made.lowered, check=False)
    return judged("metric(model)", metric, small)
