"""What a model is worth at several sizes: channels fewer, layers two in a row, weights in few bits.

The model is captured, its statistics taken and its indices scored once; each point then chooses,
cuts and compares.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from graphprune.core.errors import BudgetError, GraphPruneError, OptionError, nearest
from graphprune.core.files import check_target, write_whole
from graphprune.core.progress import interruptible, progress
from graphprune.costs.registry import Counting, cost_of
from graphprune.exploring import Metric, made, making, measured, scored
from graphprune.frontends.torch.inference import undisturbed
from graphprune.lowrank.ranks import COUNTED
from graphprune.options import PlanOptions
from graphprune.passes.agree import Agree
from graphprune.passes.choose_ranks import ChooseRanks
from graphprune.passes.offer_ranks import OfferRanks
from graphprune.pipeline import Asked, Work
from graphprune.pipelines import BOTH, FACTOR
from graphprune.report.sweep import FLOAT, RANK, WAYS, WIDTH, WIDTH_AND_RANK, Point, Sweep
from graphprune.rounding import LEAST, MOST, bytes_of, of_choice, reopened, rounded

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Where a sweep looks, unless told."""

_STATE = 2  # format of a saved sweep
_PASSES = {RANK: FACTOR, WIDTH_AND_RANK: BOTH}  # what makes the smaller models of a way


@undisturbed
def sweep(
    model: Any,
    ratios: Sequence[float] = RATIOS,
    of: str | Counting = "params",
    *,
    by: str | Sequence[str] = WIDTH,
    bits: Sequence[int] = (FLOAT,),
    metric: Metric | None = None,
    state: str | Path | None = None,
    **options: Any,
) -> Sweep:
    """Measure what a model is worth at several sizes.

    Args:
        model: As for `plan`; it is not modified.
        ratios: Fractions of the cost to remove.
        of: The cost, as for `plan`; not `"latency"`, which each point would have to measure. Ranks
            are chosen for `"params"` and `"macs"`.
        by: The ways in which each size is reached, one or several: `"width"` (channels go),
            `"rank"` (layers become two in a row, as `factor` makes them), `"width+rank"` (both
            within one budget, by their loss curves).
        bits: At each size the weights of linear layers are rounded to so many bits (2 to 16), one
            scale for each output, and the model is measured again; 32 leaves them as they are.
        metric: What a model is worth, such as its accuracy: a function of the finished model.
        state: A file (JSON) that is written whole after each size. Where it exists, the points in
            it are not measured again.
        **options: As for `plan`, its own `ratios` apart.

    Returns:
        A point for each size, way and number of bits. `print` shows a table, `plot` draws it.

    Raises:
        OptionError: An option is none that could be meant.
        GraphPruneError: The file belongs to another model or to other options.
        LiftError: The model cannot be captured.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> [point.params for point in sweep(net, (0.25, 0.5), compensate=False).points]  # of 212
        [160, 108]
    """
    bits, ways = _checked(ratios, of, bits), _ways(by, of, options)
    place = None if state is None else check_target(state)
    plain, number = cast(PlanOptions, options), len(ratios)
    work, whole = scored(
        model, max(ratios), of, metric, plain, "sweep", number,
        later=_PASSES.get(ways[0]), without=("score",) if ways == [RANK] else (),
        beyond=lambda work: _takes(work, ways[1:], number),
    )  # fmt: skip
    batch = max(work.program.batch(), 1)
    full, of = work.deps.sizes(), work.asked.request.of
    params, macs = (round(cost_of(work.deps, name)(full)) for name in ("params", "macs"))
    out = Sweep(work.program.name, of, params, round(macs / batch), whole)
    mark = _fingerprint(work, of, options)
    known = {} if place is None else _known(place, mark)

    def kept() -> str:
        if place is None:
            return "nothing is kept; with state=, the same call goes on behind the last point"
        wanted = {(ratio, way, each) for ratio, way in asked for each in bits}
        done = wanted & {*known, *((point.asked, point.by, point.bits) for point in out.points)}
        if not done:
            return "no point is finished yet, and nothing kept"
        told = f"{len(done)} of {len(wanted)} points"
        return f"{told} are kept in {place}; the same call goes on"

    asked = [(float(ratio), way) for ratio in ratios for way in ways]
    offers: dict[str, Work] = {}
    with interruptible(kept), progress("sweeping sizes") as advance:
        for done, (ratio, way) in enumerate(asked, 1):
            held = [known.get((ratio, way, each)) for each in bits]
            if any(point is None for point in held):
                if way != WIDTH and way not in offers:
                    offers[way] = _offering(work, way)
                held = list(_points(offers.get(way, work), way, ratio, bits, metric))
            out.points += [point for point in held if point is not None]
            if place is not None:
                points = {**known, **{(p.asked, p.by, p.bits): p for p in out.points}}
                saved = {"format": _STATE, "of": mark, "points": [*map(asdict, points.values())]}
                write_whole(place, json.dumps(saved, indent=1).encode())
            advance(done / len(asked))
    return out


def _checked(ratios: Any, of: str | Counting, bits: Any) -> list[int]:
    """The bits, from the weights as they are.

    Raises:
        OptionError: The ratios, the cost or the bits are none that could be meant.
    """
    if not isinstance(ratios, Collection) or not ratios or not all(
        isinstance(r, int | float) and not isinstance(r, bool) and 0 < r < 1 for r in ratios
    ):  # fmt: skip
        raise OptionError(f"ratios are fractions to remove, each in (0, 1), not {ratios!r}")
    if of == "latency":
        raise OptionError('a sweep cannot follow "latency": name "macs", and time what you choose')
    if not isinstance(bits, Collection) or not bits or not all(
        isinstance(b, int) and not isinstance(b, bool) and (b == FLOAT or LEAST <= b <= MOST)
        for b in bits
    ):  # fmt: skip
        raise OptionError(
            f"bits are whole numbers from {LEAST} to {MOST}, or {FLOAT} for weights as they are, "
            f"not {bits!r}"
        )
    return sorted(set(bits), reverse=True)


def _ways(by: Any, of: str | Counting, options: Mapping[str, Any]) -> list[str]:
    """The ways in which sizes are reached, in the order in which they are told."""
    given = [by] if isinstance(by, str) else by
    if not isinstance(given, Collection) or not given:
        raise OptionError(f"by is one or several of {', '.join(map(repr, WAYS))}, not {by!r}")
    for way in given:
        if way not in WAYS:
            raise OptionError(f"by: no way {way!r} to make a model smaller: {nearest(way, WAYS)}")
    if set(given) == {WIDTH}:
        return [WIDTH]
    if of not in COUNTED:
        raise OptionError(f"ranks are chosen for {' and '.join(COUNTED)}, not for {of!r}")
    if options.get("passes") is not None:
        raise OptionError('passes= replaces what makes the widths: sweep it with by="width"')
    return [way for way in WAYS if way in given]


def _takes(work: Work, ways: Sequence[str], points: int) -> float:
    """Estimated seconds, on one core, of the ways beside the first."""
    effort, total = work.asked.options.effort, 0.0
    for way in ways:
        total += OfferRanks().takes(work, effort)
        total += points * sum(step.takes(work, effort) for step in making(_PASSES[way]))
    return total


def _offering(work: Work, way: str) -> Work:
    """The same work, with the layers that can become two, and what that loses."""
    other = work.again(work.batches, work.asked.options, work.unseen)
    other.share(work.statistics())
    other.asked = replace(other.asked, verify=False)  # a sweep proves nothing
    other.pipeline = _PASSES[way]
    if way == RANK:
        other.found.pop("scores", None)
    OfferRanks().run(other)
    return other


def _points(
    work: Work, way: str, ratio: float, bits: Sequence[int], metric: Metric | None
) -> Iterator[Point]:
    """What the model is worth at one size: a point for each number of bits."""
    request = replace(work.asked.request, ratio=ratio)
    try:
        if way == WIDTH:
            found = made(work, work.chooser.choose(request, work.scores).selection)
        else:
            found = _two_in_a_row(work, replace(work.asked, request=request))
    except BudgetError as error:
        why = str(error).splitlines()[0]
        yield from (Point(ratio, bits=each, why=why, by=way) for each in bits)
        return
    small = of_choice(found) if way == WIDTH else reopened(found)
    sizes = small.deps.counts(small.cuts.keep)
    cost, params, macs = (cost_of(small.deps, name) for name in (request.of, "params", "macs"))
    full = cost_of(work.deps, request.of)(work.deps.sizes())
    for each in bits:
        if each != FLOAT:
            written = small.write(rounded(small, each))
            found.lowered = found.program.adopted(found.lowered, written)
        if each != FLOAT or found.agreement is None:  # a sweep tells it, checked or not
            Agree().measure(found)
        agreement = found.agreement
        yield Point(
            ratio,
            1 - float(cost(sizes) / full),
            round(params(sizes)),
            round(macs(sizes) / max(work.program.batch(), 1)),
            None if agreement is None else agreement.kept,
            None if agreement is None else agreement.same,
            measured(found, metric),
            each,
            bytes_of(small, each),
            by=way,
        )


def _two_in_a_row(work: Work, asked: Asked) -> Work:
    """The smaller model of one budget, of layers that may become two."""
    statistics = work.statistics()
    note, statistics.left = statistics.note, {}
    other = work.again(work.batches, asked.options, work.unseen)
    other.share(statistics)
    other.asked = asked
    ChooseRanks().run(other)
    assert other.pipeline is not None
    for step in making(other.pipeline):
        step.run(other)
    statistics.note = note
    return other


def _fingerprint(work: Work, of: str, options: Mapping[str, Any]) -> str:
    """What tells a sweep from another: the model, its weights' sizes and the options in words."""
    told = {k: repr(v) for k, v in sorted(options.items()) if isinstance(v, str | int | float)}
    groups = [(group.name, group.size) for group in work.deps.groups]
    text = json.dumps([work.program.name, of, groups, told])
    return f"{work.program.name} by {of}, {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _known(path: Path, mark: str) -> dict[tuple[float, str, int], Point]:
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
    return {(point.asked, point.by, point.bits): point for point in points}
