"""How far a model can shrink: group by group (`sensitivity`), and as a whole (`sweep`).

The model is captured, its statistics taken and its indices scored once; each point of a curve then
chooses, cuts and compares.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.table import Table
from typing_extensions import Unpack

from graphprune.choice.select import Selection
from graphprune.core.errors import BudgetError, GraphPruneError, OptionError
from graphprune.core.files import check_target, write_whole
from graphprune.core.markup import heading, lines, table
from graphprune.core.progress import tracked
from graphprune.costs.registry import Counting, cost_of
from graphprune.frontends.torch.inference import undisturbed
from graphprune.pipeline import Pass, Pipeline, Work
from graphprune.planning import DEFAULT, PlanOptions, check_options, planned
from graphprune.report.report import as_text

Metric = Callable[[Any], float]
"""What a model is worth: a function of the finished model, larger being better."""

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Where a sweep looks, unless told."""

SCHEMA = 1
"""The version of both results as data."""

_STATE = 1  # format of a saved sweep
_LEAST = 3  # groups, fewer of which have no order to speak of


@dataclass(frozen=True)
class Sensitive:
    """What it costs to shrink one coupled group, the others staying whole.

    Attributes:
        group: Its name.
        size: How many indices it has.
        removed: How many went.
        params: Share of the model's parameters that went with them.
        predicted: Share of what the group's readers compute that is lost, by the loss curve; None
            where the criterion has no such curve.
        lost: Share of the outputs' variation that is lost, measured; None where nothing can be
            compared.
        metric: The metric of the smaller model; None without one.
    """

    group: str
    size: int
    removed: int
    params: float
    predicted: float | None
    lost: float | None
    metric: float | None


@dataclass(repr=False)
class Sensitivity:
    """What it costs to shrink each coupled group of a model.

    Attributes:
        model: Its name.
        ratio: Fraction of each group that went.
        base: The metric of the model itself; None without one.
        rows: One for each group, in the order of the model.
    """

    model: str
    ratio: float
    base: float | None
    rows: list[Sensitive] = field(default_factory=list)

    @property
    def correlation(self) -> float | None:
        """Spearman's rank correlation of what is predicted and what is measured, from -1 to 1.

        It says how far the loss curves, which cost nothing, may stand for the measurement; None
        where there are fewer than three groups, or nothing to compare.
        """
        pairs = [
            (row.predicted, row.lost)
            for row in self.rows
            if row.predicted is not None and row.lost is not None
        ]
        if len(pairs) < _LEAST:
            return None
        ranks = [np.argsort(np.argsort(column)) for column in zip(*pairs, strict=True)]
        if any(np.ptp(x) == 0 for x in zip(*pairs, strict=True)):
            return None
        return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {"schema": SCHEMA, **asdict(self), "correlation": self.correlation}

    def columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The result as a table: names of columns, and rows, the most sensitive group first."""
        head = ("group", "removed", "params", "predicted loss", "measured loss")
        rows = [
            (row.group, f"{row.removed} of {row.size}", f"{row.params:.1%}", _share(row.predicted),
             _share(row.lost), *([_number(row.metric)] if self.base is not None else []))
            for row in sorted(self.rows, key=lambda row: -(row.lost or row.predicted or 0.0))
        ]  # fmt: skip
        return (*head, "metric") if self.base is not None else head, rows

    def notes(self) -> list[str]:
        """What the table does not say."""
        out = [] if self.base is None else [f"metric of the model itself: {self.base:.4g}"]
        if self.correlation is not None:
            out.append(f"rank correlation of predicted and measured loss: {self.correlation:.2f}")
        return out

    def __repr__(self) -> str:
        return f"Sensitivity({self.model}: {len(self.rows)} groups, {self.ratio:.0%} of each)"

    def __str__(self) -> str:
        return _text(f"{self.model}: {self.ratio:.0%} of each group alone", self)

    def _repr_html_(self) -> str:
        head, rows = self.columns()
        return heading(repr(self)) + table(head, rows) + lines(self.notes())


@dataclass(frozen=True)
class Point:
    """One point of a sweep.

    Attributes:
        asked: The fraction of the cost to remove.
        achieved: What was reached; None where the budget cannot be met, `why` telling the reason.
        params: Parameters that stay.
        macs: Multiply-accumulates of one sample that stay.
        kept: Share of the outputs' variation that is kept.
        same: Share of equal answers, where outputs are scores of classes.
        metric: The metric of the smaller model.
        why: Why there is no such model; else empty.
    """

    asked: float
    achieved: float | None = None
    params: int = 0
    macs: int = 0
    kept: float | None = None
    same: float | None = None
    metric: float | None = None
    why: str = ""


@dataclass(repr=False)
class Sweep:
    """What a model is worth at several sizes.

    Attributes:
        model: Its name.
        of: The cost that the fractions speak of.
        params: Parameters of the model itself.
        macs: Its multiply-accumulates for one sample.
        base: The metric of the model itself; None without one.
        points: One for each fraction, in the order asked for.
    """

    model: str
    of: str
    params: int
    macs: int
    base: float | None
    points: list[Point] = field(default_factory=list)

    @property
    def pareto(self) -> list[Point]:
        """The points than which no other is both smaller and better, the largest model first."""
        known = [p for p in self.points if p.achieved is not None and _worth(p) is not None]
        out: list[Point] = []
        for point in sorted(known, key=lambda p: (p.params, -cast(float, _worth(p)))):
            if not out or cast(float, _worth(point)) > cast(float, _worth(out[-1])):
                out.append(point)
        return out[::-1]

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {"schema": SCHEMA, **asdict(self), "pareto": [point.asked for point in self.pareto]}

    def columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The result as a table: names of columns, and rows."""
        head = ("removed", "parameters", "MACs", "outputs keep", "same answer")
        best = self.pareto
        rows = []
        for point in self.points:
            if point.achieved is None:
                blank = ["-"] * (len(head) - 1 + (self.base is not None))
                rows.append((f"{point.asked:.0%}", *blank))
                continue
            metric = [_number(point.metric)] if self.base is not None else []
            star = "" if point in best else " (not better than a smaller one)"
            rows.append(
                (f"{point.achieved:.1%}{star}", f"{point.params:,}", f"{point.macs:,}",
                 _share(point.kept), _share(point.same), *metric)
            )  # fmt: skip
        return (*head, "metric") if self.base is not None else head, rows

    def notes(self) -> list[str]:
        """What the table does not say."""
        out = [] if self.base is None else [f"metric of the model itself: {self.base:.4g}"]
        return out + [f"{p.asked:.0%} cannot be had: {p.why}" for p in self.points if p.why]

    def __repr__(self) -> str:
        return f"Sweep({self.model}: {len(self.points)} sizes by {self.of})"

    def __str__(self) -> str:
        title = f"{self.model}: {self.params:,} parameters, {self.macs:,} MACs; share of {self.of}"
        return _text(title, self)

    def _repr_html_(self) -> str:
        head, rows = self.columns()
        return heading(repr(self)) + table(head, rows) + lines(self.notes())


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
    work = _scored(model, ratio, "params", metric, options, "sensitivity")
    out = Sensitivity(work.program.name, float(ratio), _base(work, metric))
    params, sizes = cost_of(work.deps, "params"), work.deps.sizes()
    curved = work.rows[-1].note == _CURVES
    for group, scores in tracked(
        zip(work.deps.groups, work.scores, strict=True), "measuring groups", len(work.deps.groups)
    ):
        left = max(math.ceil((1 - ratio) * group.size / group.grain) * group.grain, group.grain)
        keep = np.sort(np.argsort(scores, kind="stable")[group.size - left :])
        gone = group.size - left
        selection = Selection({group.axis: keep} if gone else {}, ratio, ratio, 1, "params")
        made = _made(work, selection)
        counts = work.deps.counts(selection.keep)
        out.rows.append(
            Sensitive(
                group.name,
                group.size,
                gone,
                1 - float(params(counts) / params(sizes)),
                float(np.sort(scores)[gone - 1]) if curved and gone else None,
                None if made.agreement is None else 1 - made.agreement.kept,
                _measured(made, metric),
            )
        )
    return out


@undisturbed
def sweep(
    model: Any,
    ratios: Sequence[float] = RATIOS,
    of: str | Counting = "params",
    *,
    metric: Metric | None = None,
    state: str | Path | None = None,
    **options: Any,
) -> Sweep:
    """Measure what a model is worth at several sizes.

    Args:
        model: As for `plan`; it is not modified.
        ratios: Fractions of the cost to remove.
        of: The cost, as for `plan`; not `"latency"`, which each point would have to measure.
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
    place = None if state is None else check_target(state)
    work = _scored(model, max(ratios), of, metric, cast(PlanOptions, options), "sweep")
    deps, batch = work.deps, max(work.program.batch(), 1)
    macs, params = cost_of(deps, "macs"), cost_of(deps, "params")
    full, of = deps.sizes(), work.asked.request.of
    out = Sweep(
        work.program.name, of, round(params(full)), round(macs(full) / batch), _base(work, metric)
    )
    mark = _fingerprint(work, of, options)
    known = {} if place is None else _known(place, mark)
    cost = cost_of(deps, of)
    for ratio in tracked(ratios, "sweeping sizes", len(ratios)):
        point = known.get(ratio)
        if point is None:
            try:
                request = replace(work.asked.request, ratio=float(ratio))
                made = _made(work, work.chooser.choose(request, work.scores).selection)
            except BudgetError as error:
                point = Point(float(ratio), why=str(error).splitlines()[0])
            else:
                kept, found = deps.counts(made.selection.keep), made.agreement
                point = Point(
                    float(ratio),
                    1 - float(cost(kept) / cost(full)),
                    round(params(kept)),
                    round(macs(kept) / batch),
                    None if found is None else found.kept,
                    None if found is None else found.same,
                    _measured(made, metric),
                )
        out.points.append(point)
        if place is not None:
            held = {**known, **{p.asked: p for p in out.points}}
            saved = {"format": _STATE, "of": mark, "points": [asdict(p) for p in held.values()]}
            write_whole(place, json.dumps(saved, indent=1).encode())
    return out


_CURVES = "loss curves after compensation"  # what the pass that scores notes


def _scored(
    model: Any,
    ratio: float,
    of: str | Counting,
    metric: Metric | None,
    options: PlanOptions,
    function: str,
) -> Work:
    """The model captured and its indices scored, once for all points."""
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
    work = planned(model, ratio, of, scoring, later=pipeline)
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
    return (step for step in pipeline if step.makes and step.name not in ("verify", "measure"))


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


def _known(path: Path, mark: str) -> dict[float, Point]:
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
    return {point.asked: point for point in points}


def _worth(point: Point) -> float | None:
    return point.kept if point.metric is None else point.metric


def _share(found: float | None) -> str:
    return "-" if found is None else f"{found:.1%}"


def _number(found: float | None) -> str:
    return "-" if found is None else f"{found:.4g}"


def drawn(title: str, found: Sensitivity | Sweep) -> Table:
    """A result as a table for terminals."""
    head, rows = found.columns()
    out = Table(title=title)
    for number, name in enumerate(head):
        out.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        out.add_row(*row)
    return out


def _text(title: str, found: Sensitivity | Sweep) -> str:
    return as_text(drawn(title, found)) + "".join(f"{line}\n" for line in found.notes())
