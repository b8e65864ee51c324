"""weigh: what the removal of channels costs if the weights that stay are refitted.

1. The original runs over the samples; covariances of what every consumer reads are accumulated.
2. For each coupled group, greedy Optimal Brain Surgeon over all of its consumers gives the order
   in which its indices go, and the error that each adds.
3. The cumulative error, each consumer's relative to what it computes, is the group's loss curve:
   its values are comparable between groups, and serve as levels for `select`.
4. Channels that are summed over between two computed operands (q kᵀ) cannot be made up for: their
   groups are left alone as long as anything else can go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from graphprune.axes import Axis, atoms
from graphprune.consumers import Consumer, Layout, find_consumers, layout
from graphprune.dependencies import Dependencies
from graphprune.graph import Op
from graphprune.importance import Scores
from graphprune.indices import holdings
from graphprune.moments import observed
from graphprune.obs import Elimination, Matrix, damped_inverse, eliminate, eliminate_blocks
from graphprune.passes.select import NEEDED
from graphprune.samples import Samples
from graphprune.sweep import Sweep, resized

_MOST = 0.9  # of a group may go; beyond, the curve jumps
_SYSTEMS, _WORK = 8, 1 << 31  # more layers than this, or of more cubed widths, share covariances

Blocks = npt.NDArray[np.float64]  # n x size x n x size


@dataclass
class _System:
    """Layers whose inputs have one covariance, and how many covariances were averaged for it."""

    key: object
    covariance: Blocks
    weight: Blocks
    merged: int = 1


@dataclass
class _Systems:
    """The layers that read a group: covariance and weights' Gram of each, by owned inputs."""

    size: int
    held: list[_System] = field(default_factory=list)

    def add(
        self, key: object, covariance: Matrix, weight: Matrix, positions: npt.NDArray[np.int64]
    ) -> None:
        """Add a layer; of the same key are those that read the same value."""
        each = positions.size // self.size
        shape = [self.size, each, self.size, each]
        flat = positions.ravel()
        if not np.array_equal(flat, np.arange(len(covariance))):
            grid = np.ix_(flat, flat)
            covariance, weight = covariance[grid], weight[grid]
        total = float(np.vdot(weight, covariance))
        if not 0 < total < np.inf:
            return
        # Relative to what the layer computes: an error in any of them harms alike.
        c, a = covariance.reshape(shape), weight.reshape(shape) / total
        alike = [system for system in self.held if system.covariance.shape[1] == each]
        same = next((system for system in alike if system.key == key), None)
        if same is not None:
            same.weight += a
        elif alike and len(self.held) >= min(_SYSTEMS, _WORK // positions.size**3):
            nearest = alike[len(alike) // 2]
            nearest.merged += 1
            nearest.covariance = nearest.covariance + (c - nearest.covariance) / nearest.merged
            nearest.weight += a
        else:
            self.held.append(_System(key, c, a))

    def eliminated(self) -> Elimination:
        pairs: list[tuple[Blocks, Blocks]] = []
        while self.held:
            system = self.held.pop(0)
            c, width = system.covariance, round(system.covariance.size**0.5)
            inverse = damped_inverse(c.reshape(width, width)).reshape(c.shape)
            pairs.append((inverse, system.weight))
        if any(h.shape[1] > 1 for h, _ in pairs):
            return eliminate_blocks(pairs, self.size)
        shape = (len(pairs), self.size, self.size)
        inverse, weight = (
            (parts[0][None] if len(pairs) == 1 else np.stack(parts)).reshape(shape)
            for parts in zip(*pairs, strict=True)
        )
        return eliminate(inverse, weight, self.size)


_Seen: TypeAlias = dict[tuple[object, ...], npt.NDArray[np.float64]]


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
    systems = {group.axis: _Systems(group.size) for group in deps.groups}
    due = _last_readers(deps, list(consumers.values()), systems)
    found: dict[Axis, Scores | None] = dict.fromkeys(systems)
    attrs = resized(deps, {}, samples.size)
    sweep = Sweep(graph, samples.weight, samples.chunks, attrs, torch.float32)
    samples.meet(graph.inputs, sweep)
    seen: _Seen = {}
    for number, op in enumerate(graph.ops):
        sweep.step(op)
        samples.meet(op.outputs, sweep)
        for consumer in consumers.get(op, ()):
            _read(deps, consumer, sweep, systems, samples, seen)
        for axis in due.get(op, ()):
            found[axis] = _levels(systems.pop(axis))
        sweep.release(op)
        advance((number + 1) / len(graph.ops))
    for axis in _products(deps):
        curve = found.get(axis)
        if curve is not None:
            found[axis] = np.where(curve < NEEDED, curve + NEEDED, curve)
    return list(found.values())


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
    deps: Dependencies, consumers: Sequence[Sequence[Consumer]], systems: dict[Axis, _Systems]
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
    sweep: Sweep,
    systems: dict[Axis, _Systems],
    samples: Samples,
    seen: _Seen,
) -> None:
    """Add one consumer to the systems of the groups that it reads.

    Args:
        deps: The analysis.
        consumer: The consumer.
        sweep: The run, behind the consumer's operation.
        systems: For each group's axis.
        samples: Tell the statistics of batch norms.
        seen: The covariances that were taken last: several layers often read one value.
    """
    dim = deps.dims[consumer.source][consumer.channel]
    if not any(axis in systems for axis in atoms(dim)):
        return
    values = sweep.values(consumer.source)
    rows = sum(x.numel() // max(x.shape[consumer.channel], 1) for x in values)
    how = layout(consumer, dim, None, rows)
    if how is None:
        return
    key = (consumer.source, consumer.channel, how, consumer.shifts)
    if key not in seen:
        seen.clear()
        pairs = ((r, r) for r in (how.rows(x, consumer.channel) for x in values))
        moments = observed(pairs)
        own = moments.second(central=consumer.shifts)[1]
        diagonal = own.diagonal(dim1=1, dim2=2)
        diagonal += moments.scarcity() * diagonal.mean(1, keepdim=True)
        seen[key] = own.cpu().numpy()
    covariance = seen[key]
    weight = _gram(consumer, how, samples).cpu().numpy()
    for axis, positions, owners in holdings(dim):
        if axis not in systems:
            continue
        for group in range(how.groups):
            places = _owned(how, group, axis, positions, owners)
            if places is not None:
                systems[axis].add((key, group), covariance[group], weight[group], places)


def _gram(consumer: Consumer, how: Layout, samples: Samples) -> torch.Tensor:
    """WᵀW over outputs and taps, outputs scaled as the batch norm behind scales them."""
    taps = consumer.taps(consumer.weight.tensor.detach().float())
    gains = consumer.gains(samples.weight).to(taps)
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


def _levels(systems: _Systems) -> Scores | None:
    """The loss curve, as one level for each index."""
    if not systems.held:
        return None
    found = systems.eliminated()
    curve = np.cumsum(np.maximum(found.losses, 0.0))
    rank = np.arange(len(curve))
    levels = np.empty(len(curve))
    # A rank too small to matter keeps the order where losses are equal.
    levels[found.order] = curve + 1e-12 * rank + NEEDED * (rank >= _MOST * len(curve))
    return levels if np.isfinite(levels).all() else None
