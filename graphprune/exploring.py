"""How far a model can shrink: group by group (`sensitivity`), and as a whole (`sweep`).

The model is captured, its statistics taken and its indices scored once; each point of a curve then
chooses, cuts and compares.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from typing_extensions import Unpack

from graphprune.choice.select import Selection
from graphprune.core.errors import BudgetError, GraphPruneError, OptionError
from graphprune.core.files import check_target, write_whole
from graphprune.core.progress import interruptible, progress
from graphprune.costs.registry import Counting, cost_of
from graphprune.foretelling import UNPROVEN
from graphprune.frontends.torch.inference import undisturbed
from graphprune.importance.constants import NEEDED
from graphprune.options import PlanOptions, check_options
from graphprune.passes.agree import Agree
from graphprune.pipeline import Pass, Pipeline, Work
from graphprune.pipelines import DEFAULT
from graphprune.planning import planned
from graphprune.report.sensitivity import Sensitive, Sensitivity
from graphprune.report.sweep import FLOAT, Point, Sweep
from graphprune.rounding import LEAST, MOST, bytes_of, rounded

Metric = Callable[[Any], float]
"""What a model is worth: a function of the finished model, larger being better."""

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Where a sweep looks, unless told."""

_STATE = 2  # format of a saved sweep


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

    Raises:
        OptionError: An option is none that could be meant.
        LiftError: The model cannot be captured.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
        raise OptionError(f"ratio is the share of each group to remove, in (0, 1), not {ratio!r}")
    work = _scored(model, ratio, "params", metric, options, "sensitivity", None)
    out = Sensitivity(work.program.name, float(ratio), _base(work, metric))
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
    made = _made(work, selection)
    counts = work.deps.counts(selection.keep)
    level = float(np.sort(scores)[gone - 1]) if gone else NEEDED
    curved = work.rows[-1].note == _CURVES and number not in work.statistics().unread
    return Sensitive(
        group.name,
        group.size,
        gone,
        1 - float(params(counts) / params(work.deps.sizes())),
        level if curved and level < NEEDED else None,
        None if made.agreement is None else 1 - made.agreement.kept,
        _measured(made, metric),
    )


@undisturbed
def sweep(
    model: Any,
    ratios: Sequence[float] = RATIOS,
    of: str | Counting = "params",
    *,
    bits: Sequence[int] = (FLOAT,),
    metric: Metric | None = None,
    state: str | Path | None = None,
    **options: Any,
) -> Sweep:
    """Measure what a model is worth at several sizes.

    Args:
        model: As for `plan`; it is not modified.
        ratios: Fractions of the cost to remove.
        of: The cost, as for `plan`; not `"latency"`, which each point would have to measure.
        bits: At each size the weights of linear layers are rounded to so many bits (2 to 16), one
            scale for each output, and the model is measured again; 32 leaves them as they are.
        metric: What a model is worth, such as its accuracy: a function of the finished model.
        state: A file (JSON) that is written whole after each point. Where it exists, the points in
            it are not measured again.
        **options: As for `plan`, its own `ratios` apart.

    Raises:
        OptionError: An option is none that could be meant.
        GraphPruneError: The file belongs to another model or to other options.
        LiftError: The model cannot be captured.
    """
    if not ratios or not all(
        isinstance(r, int | float) and not isinstance(r, bool) and 0 < r < 1 for r in ratios
    ):
        raise OptionError(f"ratios are fractions to remove, each in (0, 1), not {ratios!r}")
    if of == "latency":
        raise OptionError('a sweep cannot follow "latency": name "macs", and time what you choose')
    if not bits or not all(
        isinstance(b, int) and not isinstance(b, bool) and (b == FLOAT or LEAST <= b <= MOST)
        for b in bits
    ):
        raise OptionError(
            f"bits are whole numbers from {LEAST} to {MOST}, or {FLOAT} for weights as they are, "
            f"not {bits!r}"
        )
    bits = sorted(set(bits), reverse=True)  # from the weights as they are
    place = None if state is None else check_target(state)
    plain = cast(PlanOptions, options)
    work = _scored(model, max(ratios), of, metric, plain, "sweep", len(ratios))
    batch = max(work.program.batch(), 1)
    full, of = work.deps.sizes(), work.asked.request.of
    params, macs = (round(cost_of(work.deps, name)(full)) for name in ("params", "macs"))
    out = Sweep(work.program.name, of, params, round(macs / batch), _base(work, metric))
    mark = _fingerprint(work, of, options)
    known = {} if place is None else _known(place, mark)

    def kept() -> str:
        if place is None:
            return "nothing is kept; with state=, the same call goes on behind the last point"
        number = len(ratios) * len(bits)
        return f"{len(out.points)} of {number} points are kept in {place}; the same call goes on"

    with interruptible(kept), progress("sweeping sizes") as advance:
        for done, ratio in enumerate(ratios, 1):
            held = [known.get((float(ratio), each)) for each in bits]
            if any(point is None for point in held):
                held = list(_points(work, float(ratio), bits, metric))
            out.points += [point for point in held if point is not None]
            if place is not None:
                points = {**known, **{(p.asked, p.bits): p for p in out.points}}
                saved = {"format": _STATE, "of": mark, "points": [*map(asdict, points.values())]}
                write_whole(place, json.dumps(saved, indent=1).encode())
            advance(done / len(ratios))
    return out


def _points(
    work: Work, ratio: float, bits: Sequence[int], metric: Metric | None
) -> Iterator[Point]:
    """What the model is worth at one size: a point for each number of bits."""
    try:
        request = replace(work.asked.request, ratio=ratio)
        made = _made(work, work.chooser.choose(request, work.scores).selection)
    except BudgetError as error:
        why = str(error).splitlines()[0]
        yield from (Point(ratio, bits=each, why=why) for each in bits)
        return
    deps, full = work.deps, work.deps.sizes()
    kept = deps.counts(made.selection.keep)
    cost, params, macs = (cost_of(deps, name) for name in (work.asked.request.of, "params", "macs"))
    for each in bits:
        if each != FLOAT:
            values = rounded(made, each)
            made.lowered = made.program.write(made.expressed, made.lowered, values)
        if each != FLOAT or made.agreement is None:  # a sweep tells it, checked or not
            Agree().measure(made)
        found = made.agreement
        yield Point(
            ratio,
            1 - float(cost(kept) / cost(full)),
            round(params(kept)),
            round(macs(kept) / max(work.program.batch(), 1)),
            None if found is None else found.kept,
            None if found is None else found.same,
            _measured(made, metric),
            each,
            bytes_of(made, each),
        )


_CURVES = "loss curves after compensation"  # what the pass that scores notes


def _scored(
    model: Any,
    ratio: float,
    of: str | Counting,
    metric: Metric | None,
    options: PlanOptions,
    function: str,
    points: int | None,
) -> Work:
    """The model captured and its indices scored, once for all points (None: one for each group)."""
    check_options(options, PlanOptions, function)
    if metric is not None and not callable(metric):
        raise OptionError(f"metric is a function of the smaller model, not {metric!r}")
    given = dict(options)
    passes = given.pop("passes", None) or DEFAULT
    pipeline = passes if isinstance(passes, Pipeline) else Pipeline(cast(Any, passes))
    if function == "sensitivity":
        given.setdefault("effort", "fast")
    first = [step for step in pipeline if not step.makes and step.name != "select"]
    scoring = cast(PlanOptions, {**given, "passes": Pipeline(first)})
    work = planned(model, ratio, of, scoring, later=pipeline, points=points)
    work.pipeline = pipeline
    return work


def _made(work: Work, selection: Selection) -> Work:
    """The smaller model of one choice, from the statistics that were taken once; not proven."""
    statistics = work.statistics()
    note, statistics.left = statistics.note, {}
    other = work.again(work.batches, work.asked.options, work.unseen)
    other.share(statistics)
    other.choice = other.chooser.take(selection)
    assert work.pipeline is not None
    for step in _making(work.pipeline):
        step.run(other)
    statistics.note = note
    return other


def _making(pipeline: Pipeline) -> Iterator[Pass]:
    """What makes the smaller model, but for what proves or times it."""
    return (step for step in pipeline if step.makes and step.name not in UNPROVEN)


def _base(work: Work, metric: Metric | None) -> float | None:
    """The metric of the model itself."""
    if metric is None:
        return None
    whole = _made(work, Selection({}, 0.0, 0.0, 1, "params"))
    return _measured(whole, metric)


def _measured(made: Work, metric: Metric | None) -> float | None:
    if metric is None:
        return None
    small = made.program.finish(made.expressed, made.lowered, check=False)
    found = metric(small)
    try:
        return float(found)
    except (TypeError, ValueError):
        raise OptionError(f"metric returned {found!r}: a number is needed") from None


def _fingerprint(work: Work, of: str, options: Mapping[str, Any]) -> str:
    """What tells a sweep from another: the model, its weights' sizes and the options in words."""
    told = {k: repr(v) for k, v in sorted(options.items()) if isinstance(v, str | int | float)}
    groups = [(group.name, group.size) for group in work.deps.groups]
    text = json.dumps([work.program.name, of, groups, told])
    return f"{work.program.name} by {of}, {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _known(path: Path, mark: str) -> dict[tuple[float, int], Point]:
    """The points that an earlier run of the same sweep left.

    Raises:
        GraphPruneError: The file holds something else.
    """
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        found, points = data["of"], [Point(**point) for point in data["points"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraphPruneError(f"{path} holds no state of a sweep: {error}") from error
    if found != mark:
        raise GraphPruneError(
            f"{path} belongs to another sweep ({found}, not {mark}): name another file, or delete "
            "it to start anew"
        )
    return {(point.asked, point.bits): point for point in points}
