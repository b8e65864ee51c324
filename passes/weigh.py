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
_SYSTEMS = 8  # more layers than this share covariances

Blocks = npt.NDArray[np.float64]  # n x size x n x size


@dataclass
class _Systems:
    """The layers that read a group: covariance and weights' Gram of each, by owned inputs."""

    size: int
    held: list[tuple[Blocks, Blocks]] = field(default_factory=list)

    def add(self, covariance: Matrix, weight: Matrix, positions: npt.NDArray[np.int64]) -> None:
        each = positions.size // self.size
        shape = [self.size, each, self.size, each]
        flat = positions.ravel()
        grid = np.ix_(flat, flat)
        c, a = covariance[grid], weight[grid]
        total = float((a * c).sum())
        if not 0 < total < np.inf:
            return
        # Relative to what the layer computes: an error in any of them harms alike.
        c, a = c.reshape(shape), a.reshape(shape) / total
        alike = [i for i, (other, _) in enumerate(self.held) if other.shape[1] == each]
        if len(self.held) >= _SYSTEMS and alike:
            at = alike[len(alike) // 2]
            old = self.held[at]
            self.held[at] = (old[0] + c, old[1] + a)
        else:
            self.held.append((c, a))

    def eliminated(self) -> Elimination:
        pairs: list[tuple[Blocks, Blocks]] = []
        for c, a in self.held:
            width = round(c.size**0.5)
            flat = c.reshape(width, width)
            pairs.append((damped_inverse(flat).reshape(c.shape), a))
        if all(h.shape[1] == 1 for h, _ in pairs):
            shape = (len(pairs), self.size, self.size)
            inverse = np.stack([h for h, _ in pairs]).reshape(shape)
            weight = np.stack([a for _, a in pairs]).reshape(shape)
            return eliminate(inverse, weight, self.size)
        return eliminate_blocks(pairs, self.size)


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
    for number, op in enumerate(graph.ops):
        for consumer in consumers.get(op, ()):
            _read(deps, consumer, sweep, systems, samples)
        for axis in due.get(op, ()):
            found[axis] = _levels(systems.pop(axis))
        sweep.step(op)
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
) -> None:
    """Add one consumer to the systems of the groups that it reads."""
    dim = deps.dims[consumer.source][consumer.channel]
    if not any(axis in systems for axis in atoms(dim)):
        return
    values = sweep.values(consumer.source)
    rows = sum(x.numel() // max(x.shape[consumer.channel], 1) for x in values)
    how = layout(consumer, dim, None, rows)
    if how is None:
        return
    pairs = ((r, r) for r in (how.rows(x, consumer.channel) for x in values))
    _, own = observed(pairs).second(central=consumer.shifts)
    covariance = own.cpu().numpy()
    weight = _gram(consumer, how, samples).cpu().numpy()
    for axis, positions, owners in holdings(dim):
        if axis not in systems:
            continue
        for group in range(how.groups):
            places = _owned(how, group, axis, positions, owners)
            if places is not None:
                systems[axis].add(covariance[group], weight[group], places)


def _gram(consumer: Consumer, how: Layout, samples: Samples) -> torch.Tensor:
    """WᵀW over outputs and taps, outputs scaled as the batch norm behind scales them."""
    taps = consumer.taps(consumer.weight.tensor.detach().double())
    gains = consumer.gains(samples.weight).to(taps.device)
    gains = gains.reshape(taps.shape[0], taps.shape[1], 1, 1)
    spread = how.spread(taps * gains)
    flat = spread.transpose(1, 2).flatten(2)
    return flat @ flat.transpose(1, 2)


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
