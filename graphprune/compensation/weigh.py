"""weigh: what the removal of channels costs if the weights that stay are refitted.

1. The original runs over the samples; covariances of what every consumer reads are accumulated.
2. For each coupled group, greedy Optimal Brain Surgeon over all of its consumers gives the order
   in which its indices go, and the error that each adds.
3. The cumulative error, as a share of all that the group could lose, is what does not get through;
   as what gets through layers in a row is a product, its logarithm counts, times all that could be
   lost: how much of the results' own error that is, to the first order (`sense`), or, where no
   gradients tell, one for each consumer. These loss curves are comparable between groups.
4. Channels that are summed over between two computed operands (q kᵀ) cannot be made up for: their
   groups are left alone as long as anything else can go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from graphprune.compensation.consumers import Consumer, Layout, find_consumers, layout
from graphprune.compensation.expect import foretell
from graphprune.compensation.obs import Elimination
from graphprune.compensation.sense import Sense, sense
from graphprune.compensation.systems import Systems
from graphprune.core.axes import Axis, atoms
from graphprune.core.graph import Op
from graphprune.core.groups import Dependencies
from graphprune.core.indices import holdings
from graphprune.engine.run import Run
from graphprune.importance import Scores
from graphprune.importance.constants import NEEDED
from graphprune.statistics.moments import Moments, observed
from graphprune.statistics.samples import Samples, walk

_LEAST = 1e-12  # that an error counts
_TINY = 1e-300
_USUAL = 3.0  # power of the share of a group that is gone, as which its loss commonly grows
_DOUBT = 30.0  # scarcity at which that tells as much as the rows do
_NOTHING = 1e-3  # of a group's contribution, less than which is as good as nothing
_MOST = 0.9  # of a group may go; beyond, the curve jumps

_Seen: TypeAlias = dict[tuple[object, ...], tuple[npt.NDArray[np.float64], list[float]]]


def weigh(
    deps: Dependencies,
    samples: Samples,
    advance: Callable[[float], None] = lambda _: None,
) -> list[Scores | None]:
    """Levels for every group: the loss that its removal up to there has caused.

    Args:
        deps: The analysis.
        samples: Inputs to take statistics from.
        advance: Called with the share of the work that is done.

    Returns:
        For each group one level for each index; None where no linear operation reads it.
    """
    graph = deps.source
    consumers = find_consumers(deps).by_op
    systems = {group.axis: Systems(group.size) for group in deps.groups}
    senses = sense(deps, samples, list(consumers))
    due = _last_readers(deps, list(consumers.values()), systems)
    found: dict[Axis, Elimination | None] = dict.fromkeys(systems)
    seen: _Seen = {}
    scarcity: dict[Axis, float] = {}
    for number, (op, run) in enumerate(walk(deps, samples)):
        for consumer in consumers.get(op, ()):
            how_much = counts_of(consumer, senses, samples)
            _read(deps, consumer, run, systems, seen, how_much, samples)
        for axis in due.get(op, ()):
            held = systems.pop(axis)
            scarcity[axis], found[axis] = held.scarcity, _finite(held.eliminated())
        advance((number + 1) / len(graph.ops))
    needed = _products(deps)
    most = max((one.losses.sum() for one in found.values() if one is not None), default=1.0)
    return [
        None
        if one is None
        else _levels(one, max(float(most), _TINY), axis in needed, scarcity[axis])
        for axis, one in found.items()
    ]


def _products(deps: Dependencies) -> set[Axis]:
    """Axes that some operation sums over without a weight that holds them."""
    out: set[Axis] = set()
    for op in deps.source.ops:
        held = {
            axis
            for value in op.inputs
            if value is not None and value.is_weight
            for dim in deps.dims[value]
            for axis in atoms(dim)
        }
        contracted = (axis for dim in deps.effects[op].contracts for axis in atoms(dim))
        out.update(axis for axis in contracted if axis not in held)
    return out


def _last_readers(
    deps: Dependencies, consumers: Sequence[Sequence[Consumer]], systems: dict[Axis, Systems]
) -> dict[Op, list[Axis]]:
    last: dict[Axis, Op] = {}
    for consumer in (c for several in consumers for c in several):
        for axis in atoms(deps.dims[consumer.source][consumer.channel]):
            if axis in systems:
                last[axis] = consumer.op
    out: dict[Op, list[Axis]] = {}
    for axis, op in last.items():
        out.setdefault(op, []).append(axis)
    return out


def _read(
    deps: Dependencies,
    consumer: Consumer,
    run: Run,
    systems: dict[Axis, Systems],
    seen: _Seen,
    counts: tuple[torch.Tensor, float | None],
    samples: Samples,
) -> None:
    """Add one consumer to the systems of the groups that it reads.

    Args:
        deps: The analysis.
        consumer: The consumer.
        run: The run, behind the consumer's operation.
        systems: For each group's axis.
        seen: The covariances that were taken last: several layers often read one value.
        counts: What errors in its outputs count.
        samples: Tell how many there are in a chunk, and what they are worth.
    """
    dim = deps.dims[consumer.source][consumer.channel]
    if not any(axis in systems for axis in atoms(dim)):
        return
    values = run.values(consumer.source)
    rows = sum(x.numel() // max(x.shape[consumer.channel], 1) for x in values)
    how = layout(consumer, dim, None, rows)
    if how is None:
        return
    key = (consumer.source, consumer.channel, how, consumer.shifts)
    if key not in seen:
        seen.clear()
        pairs = ((r, r) for r in (how.rows(x, consumer.channel) for x in values))
        moments = observed(pairs, samples.size, Moments(samples.worth))
        foretell(moments, deps, samples, consumer, how)
        own = moments.second(central=consumer.shifts)[1]
        diagonal = own.diagonal(dim1=1, dim2=2)
        scarce = moments.scarcity()
        diagonal += (scarce.clamp_max(1.0) * diagonal.mean(1))[:, None]
        seen[key] = own.cpu().numpy(), scarce.tolist()
    covariance, scarcity = seen[key]
    gains, whole = counts
    weight = _gram(consumer, how, gains).cpu().numpy()
    for axis, positions, owners in holdings(dim):
        if axis not in systems:
            continue
        for group in range(how.groups):
            places = _owned(how, group, axis, positions, owners)
            if places is not None:
                systems[axis].add((key, group), covariance[group], weight[group], places, whole)
                systems[axis].scarcity = max(systems[axis].scarcity, scarcity[group])


def counts_of(
    consumer: Consumer, senses: Mapping[Op, Sense] | None, samples: Samples
) -> tuple[torch.Tensor, float | None]:
    """By what outputs are multiplied before their errors count, and what the relative one counts.

    The latter is None where the former say it all. Without gradients, outputs count as the batch
    norm behind scales them, and an error in any layer harms alike.
    """
    gains = consumer.gains(samples.weight)
    found = senses.get(consumer.op) if senses is not None else None
    if found is None:
        return gains, 1.0
    if found.channels.shape != gains.shape:  # several layers in one operation
        return gains, max(found.whole, _LEAST)
    return found.channels.clamp_min(_LEAST).sqrt(), None


def _gram(consumer: Consumer, how: Layout, gains: torch.Tensor) -> torch.Tensor:
    """WᵀW over outputs and taps, outputs multiplied by their gains."""
    taps = consumer.taps(consumer.weight.tensor.detach().float())
    gains = gains.to(taps)
    gains = gains.reshape(taps.shape[0], taps.shape[1], 1, 1)
    spread = how.spread(taps * gains)
    flat = spread.transpose(1, 2).flatten(2)
    return (flat @ flat.transpose(1, 2)).double()


def _owned(
    how: Layout,
    group: int,
    axis: Axis,
    positions: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64] | None:
    """The channels of a layout's group that each index owns, `n x each`; None where uneven."""
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
    """What is lost is never less than nothing, and a number."""
    if found is None or not np.isfinite(found.losses).all():
        return None
    return Elimination(found.order, np.maximum(found.losses, 0.0))


def _levels(found: Elimination, most: float, needed: bool, scarcity: float) -> Scores:
    """The loss curve, as one level for each index.

    Args:
        found: The order in which indices go.
        most: The most that any group can lose, the unit of all curves.
        needed: Whether the group is left alone as long as anything else can go.
        scarcity: Of rows (`Moments.scarcity`). Where it is great, no channel seems to follow from
            others, and how losses commonly grow tells more than the covariance.
    """
    rank = np.arange(len(found.order))
    levels = np.empty(len(rank))
    total = max(float(found.losses.sum()), _TINY)
    lost = np.cumsum(found.losses) / total
    doubt = (scarcity / _DOUBT) ** 2
    lost += doubt / (1 + doubt) * (((rank + 1) / len(rank)) ** _USUAL - lost)
    passed = np.maximum(1 - lost, _NOTHING)
    # A rank too small to matter keeps the order where losses are equal.
    levels[found.order] = (
        -np.log(passed) * total / most
        + 1e-12 * rank
        + NEEDED * (needed | (rank >= _MOST * len(rank)))
    )
    return levels
