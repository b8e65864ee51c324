"""curves: for each coupled group, what the removal of its indices costs after the refit.

1. The original runs over the samples, and the covariance of each consumer's input is taken.
2. Greedy Optimal Brain Surgeon over all consumers of a group gives the order in which its indices
   go and the loss that each adds (`obs`). Losses are errors of the network's results, to the first
   order (`sensitivity`); without sensitivities, relative errors of each consumer.
3. With L the sum of a group's losses and l(k) the sum of its first k, the level of the k-th index
   is

       -log(1 - l(k) / L) * L / (largest L of all groups)

   1 - l / L is the share of the group's signal that still gets through. Shares of layers in a row
   multiply, so their logarithms add. While l is small, the level is l itself, in one unit for all
   groups. Indices up to a common level go (`choice`).
4. To what cannot be refitted, what goes is lost (`unsolved`).
5. The refit cannot make up for channels that are summed over between two computed operands, as in q
   kᵀ. Groups of such channels go last (`NEEDED`).

Example:
    Of four channels with losses 0, 1, 1 and 2, half of the signal gets through without the first
    three: their level is log 2 times L.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from graphprune.compensation.constants import (
    CURVE_POWER,
    DOUBTFUL_SCARCITY,
    LOSS_FLOOR,
    PASSED_LEAST,
    RANK_STEP,
    REMOVED_MOST,
    SENSITIVITY_FLOOR,
    WIDEST,
)
from graphprune.compensation.consumer import Consumer
from graphprune.compensation.consumers import find_consumers, held_beside
from graphprune.compensation.expect import add_expected
from graphprune.compensation.layout import Layout, layout
from graphprune.compensation.obs import Elimination
from graphprune.compensation.sensitivity import Sensitivity, sensitivities
from graphprune.compensation.systems import Systems
from graphprune.compensation.unsolved import Unsolved, between, find_unsolved
from graphprune.core.allowance import UNLIMITED, Allowance
from graphprune.core.axes import Axis, atoms
from graphprune.core.graph import Op
from graphprune.core.groups import Dependencies
from graphprune.core.indices import holdings
from graphprune.engine.run import Run
from graphprune.importance import Scores
from graphprune.importance.constants import NEEDED
from graphprune.statistics.moments import singly
from graphprune.statistics.samples import Samples, walk

_Covariances: TypeAlias = dict[tuple[object, ...], tuple[npt.NDArray[np.float64], list[float]]]
"""The covariances of one value and their scarcities, by how they were taken."""


@dataclass(frozen=True)
class Curves:
    """Loss curves.

    Attributes:
        levels: For each group the level of every index (see above); None where no linear operation
            reads the group.
        unit: The largest sum of losses of any group.
    """

    levels: list[Scores | None]
    unit: float


def loss_curves(
    deps: Dependencies,
    samples: Samples,
    advance: Callable[[float], None] = lambda _: None,
    allowed: Allowance = UNLIMITED,
) -> Curves:
    """The loss curve of every group.

    Args:
        deps: The analysis.
        samples: The inputs that statistics are taken from.
        advance: Called with the share of the work that is done.
        allowed: Time that sensitivities may take.
    """
    graph = deps.source
    consumers = find_consumers(deps).by_op
    left = find_unsolved(deps, consumers)
    systems = {group.axis: Systems(group.size) for group in deps.groups}
    measured = sensitivities(deps, samples, [*consumers, *left], allowed)
    due = _last_readers(deps, [*consumers.values(), *left.values()], systems)
    found: dict[Axis, Elimination | None] = dict.fromkeys(systems)
    last: _Covariances = {}
    scarcity: dict[Axis, float] = {}
    beside = held_beside(one for several in consumers.values() for one in several)
    for number, (op, run) in enumerate(walk(deps, samples, held=beside)):
        for consumer in consumers.get(op, ()):
            weights = output_weights(consumer, measured, samples)
            _add(deps, consumer, run, systems, last, weights, samples)
        for unsolved in left.get(op, ()):
            found_here = None if measured is None else measured.get(op)
            whole = 1.0 if found_here is None else max(found_here.whole, SENSITIVITY_FLOOR)
            _add_unsolved(deps, unsolved, run, systems, whole)
        for axis in due.get(op, ()):
            held = systems.pop(axis)
            scarcity[axis], found[axis] = held.scarcity, _finite(held.eliminated())
        advance((number + 1) / len(graph.ops))
    fixed = deps.source.derived()
    needed = {axis for op in graph.ops for axis in between(deps, op, fixed)}
    most = max((one.losses.sum() for one in found.values() if one is not None), default=1.0)
    most = max(float(most), LOSS_FLOOR)
    levels = [
        None if one is None else _levels(one, most, axis in needed, scarcity[axis])
        for axis, one in found.items()
    ]
    return Curves(levels, most)


def _last_readers(
    deps: Dependencies,
    readers: Sequence[Sequence[Consumer | Unsolved]],
    systems: dict[Axis, Systems],
) -> dict[Op, list[Axis]]:
    """For each operation the groups whose last reader it is."""
    place = {op: number for number, op in enumerate(deps.source.ops)}
    last: dict[Axis, Op] = {}
    for consumer in sorted((c for several in readers for c in several), key=lambda c: place[c.op]):
        for axis in atoms(deps.dims[consumer.value][consumer.channel]):
            if axis in systems:
                last[axis] = consumer.op
    out: dict[Op, list[Axis]] = {}
    for axis, op in last.items():
        out.setdefault(op, []).append(axis)
    return out


def _add(
    deps: Dependencies,
    consumer: Consumer,
    run: Run,
    systems: dict[Axis, Systems],
    last: _Covariances,
    weights: tuple[torch.Tensor, float | None],
    samples: Samples,
) -> None:
    """Add one consumer to the systems of the groups that it reads.

    Args:
        deps: The analysis.
        consumer: The consumer.
        run: The run, just after the consumer's operation.
        systems: The systems of each group's axis.
        last: The covariances that were taken last, as several layers often read one value.
        weights: What errors in its outputs weigh (`output_weights`).
        samples: The samples of the run.
    """
    dim = deps.dims[consumer.value][consumer.channel]
    if not any(axis in systems for axis in atoms(dim)):
        return
    values = consumer.values(run)
    rows = sum(x.numel() // max(x.shape[consumer.channel], 1) for x in values)
    how = layout(consumer, dim, None, rows)
    if how is None:
        return
    key = (consumer.value, consumer.channel, how, consumer.shifts, consumer.runs)
    if key not in last:
        last.clear()
        pairs = ((r, r) for r in (how.rows(x, consumer.channel) for x in values))
        moments = how.observed(pairs, deps, consumer, samples)
        add_expected(moments, deps, samples, consumer, how)
        own = moments.second(central=consumer.shifts)[1]
        diagonal = own.diagonal(dim1=1, dim2=2)
        scarce = moments.scarcity()
        diagonal += (scarce.clamp_max(1.0) * diagonal.mean(1))[:, None]
        last[key] = own.real.cpu().numpy(), scarce.tolist()
    covariance, scarcity = last[key]
    gains, whole = weights
    weight = _gram(consumer, how, gains).cpu().numpy()
    powers = np.einsum("gij,gij->g", weight, covariance)
    shares = powers / max(powers.sum(), LOSS_FLOOR)
    for axis, positions, owners in holdings(dim):
        if axis not in systems:
            continue
        for group in range(how.groups):
            places = _owned(how, 0 if how.beside is not None else group, axis, positions, owners)
            if places is not None:
                share = None if whole is None else whole * float(shares[group])
                systems[axis].add((key, group), covariance[group], weight[group], places, share)
                systems[axis].scarcity = max(systems[axis].scarcity, scarcity[group])


def _add_unsolved(
    deps: Dependencies, unsolved: Unsolved, run: Run, systems: dict[Axis, Systems], whole: float
) -> None:
    """Add what cannot be refitted to the systems of the groups that it reads.

    Args:
        deps: The analysis.
        unsolved: What it reads.
        run: The run, just after the operation.
        systems: The systems of each group's axis.
        whole: How much the results suffer from a relative error of its output.
    """
    dim = deps.dims[unsolved.value][unsolved.channel]
    if not any(axis in systems for axis in atoms(dim)):
        return
    powers = unsolved.powers(run.values(unsolved.value)).cpu().numpy()
    how = Layout(1, 1, len(powers), 1)
    if len(powers) > WIDEST or not np.isfinite(powers).all():
        return
    covariance, weight = np.diag(powers), np.eye(len(powers))
    for axis, positions, owners in holdings(dim):
        places = _owned(how, 0, axis, positions, owners) if axis in systems else None
        if places is not None:
            systems[axis].add(unsolved, covariance, weight, places, whole)


def output_weights(
    consumer: Consumer, measured: Mapping[Op, Sensitivity] | None, samples: Samples
) -> tuple[torch.Tensor, float | None]:
    """What errors in a consumer's outputs weigh.

    Returns:
        A factor for each output, and `Sensitivity.whole`. The latter is None where the factors are
        the roots of each output's sensitivity, which say it all. Without these, the factors are
        those of the batch norm after the outputs, and the relative error of every consumer weighs
        1.
    """
    gains = consumer.gains(samples.weight)
    found = measured.get(consumer.op) if measured is not None else None
    if found is None:
        return gains, 1.0
    if found.channels.shape != gains.shape:  # several layers in one operation
        return gains, max(found.whole, SENSITIVITY_FLOOR)
    return found.channels.clamp_min(SENSITIVITY_FLOOR).sqrt(), None


def _gram(consumer: Consumer, how: Layout, gains: torch.Tensor) -> torch.Tensor:
    """WᵀW, summed over outputs and taps, each output times its gain: `groups x width x width`."""
    taps = consumer.taps(singly(consumer.numbers()))
    gains = gains.to(taps)
    gains = gains.reshape(taps.shape[0], taps.shape[1], 1, 1)
    spread = how.spread(taps * gains)
    flat = spread.transpose(1, 2).flatten(2)
    return (flat @ flat.mH).real.double()


def _owned(
    how: Layout,
    group: int,
    axis: Axis,
    positions: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64] | None:
    """The channels of one group of a layout that each index of an axis owns.

    Args:
        how: The layout.
        group: Number of the group in it.
        axis: The axis.
        positions: Positions along the whole dimension that indices own.
        owners: The index that owns each position.

    Returns:
        `n x each`; None where indices own different numbers of channels, or share some.
    """
    each = how.before * how.width * how.after
    inside = positions // each == group
    channels = positions[inside] // how.after % how.width
    pairs = np.unique(np.stack([owners[inside], channels]), axis=1)
    per = len(pairs[0]) // axis.size
    if per == 0 or len(pairs[0]) != per * axis.size:
        return None
    if not np.array_equal(pairs[0], np.repeat(np.arange(axis.size), per)):
        return None
    places = pairs[1].reshape(axis.size, per)
    return places if len(np.unique(places)) == places.size else None


def _finite(found: Elimination | None) -> Elimination | None:
    """An elimination without the negative losses of rounding; None where some are not finite."""
    if found is None or not np.isfinite(found.losses).all():
        return None
    return Elimination(found.order, np.maximum(found.losses, 0.0))


def _levels(found: Elimination, most: float, needed: bool, scarcity: float) -> Scores:
    """The level of every index (see above).

    Where rows are very scarce, the covariance says little, and the curve is drawn towards a common
    shape, in which the first fraction f of the indices causes f^`CURVE_POWER` of the loss.

    Args:
        found: The order in which indices go, and their losses.
        most: The largest sum of losses of any group, the unit of all curves.
        needed: Whether the group goes last.
        scarcity: The scarcity of rows (`Moments.scarcity`).
    """
    rank = np.arange(len(found.order))
    levels = np.empty(len(rank))
    total = max(float(found.losses.sum()), LOSS_FLOOR)
    lost = np.cumsum(found.losses) / total
    doubt = (scarcity / DOUBTFUL_SCARCITY) ** 2
    lost += doubt / (1 + doubt) * (((rank + 1) / len(rank)) ** CURVE_POWER - lost)
    passed = np.maximum(1 - lost, PASSED_LEAST)
    levels[found.order] = (
        -np.log(passed) * total / most
        + RANK_STEP * rank
        + NEEDED * (needed | (rank >= REMOVED_MOST * len(rank)))
    )
    return levels
