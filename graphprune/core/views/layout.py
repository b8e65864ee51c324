"""layout: where the boxes of a directed graph stand, layer by layer (Sugiyama et al. 1981).

1. A box stands one layer below the lowest box that leads to it.
2. An edge over several layers gets a place in each of them.
3. Within a layer, boxes go where the mean of their neighbours is, in sweeps down and up.
4. Where they would overlap, they are moved apart by as little as can be (in least squares).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

_SWEEPS = 6  # down and up; more change no picture that was looked at
_GAP = 28.0  # between boxes of a layer
_LANE = 14.0  # width of an edge that passes a layer
_STEP = 44.0  # between layers, so that edges can be told apart
_LONG = 60  # layers that an edge may pass and still has a place in each; longer ones run straight

Point: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Placed:
    """A layout.

    Attributes:
        corners: The upper left corner of every box.
        routes: For every edge the points that it runs through, from above to below.
        width: Of everything.
        height: Of everything.
    """

    corners: list[Point]
    routes: list[list[Point]]
    width: float
    height: float


def placed(sizes: Sequence[Point], edges: Sequence[tuple[int, int]]) -> Placed:
    """Find a place for every box.

    Args:
        sizes: Width and height of the boxes.
        edges: From which box to which; always from an earlier one to a later one.
    """
    layers = _layers(len(sizes), edges)
    grid = _Grid(sizes, edges, layers)
    for _ in range(_SWEEPS):
        grid.sweep(range(1, len(grid.rows)), grid.above)
        grid.sweep(range(len(grid.rows) - 2, -1, -1), grid.below)
    return grid.placed()


def _layers(number: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The layer of every box: the longest way to it; sources stand above what they lead to."""
    depth = [0] * number
    for a, b in sorted(edges, key=lambda edge: edge[1]):
        depth[b] = max(depth[b], depth[a] + 1)
    reached = {b for _, b in edges}
    first: dict[int, int] = {}
    for a, b in edges:
        first[a] = min(first.get(a, depth[b]), depth[b])
    return [
        depth[i] if i in reached else max(first.get(i, 1) - 1, 0)  # an input stands near its reader
        for i in range(number)
    ]


class _Grid:
    """Boxes and lanes of edges, layer by layer.

    Places are numbered: the boxes first, then the lanes.
    """

    def __init__(
        self, sizes: Sequence[Point], edges: Sequence[tuple[int, int]], layers: Sequence[int]
    ) -> None:
        self.sizes = sizes
        self.rows: list[list[int]] = [[] for _ in range(max(layers, default=0) + 1)]
        self.layer = list(layers)
        self.widths = [width for width, _ in sizes]
        self.chains: list[list[int]] = []
        for i, layer in enumerate(layers):
            self.rows[layer].append(i)
        for a, b in edges:
            self.chains.append([a, *self._lanes(layers[a], layers[b]), b])
        self.above: list[list[int]] = [[] for _ in self.widths]
        self.below: list[list[int]] = [[] for _ in self.widths]
        for chain in self.chains:
            for a, b in pairwise(chain):
                self.above[b].append(a)
                self.below[a].append(b)
        self.middle = [0.0] * len(self.widths)
        for row in self.rows:
            self._set(row, [0.0] * len(row))

    def _lanes(self, start: int, stop: int) -> list[int]:
        lanes: list[int] = []
        if stop - start - 1 <= _LONG:
            for layer in range(start + 1, stop):
                lanes.append(len(self.widths))
                self.rows[layer].append(lanes[-1])
                self.widths.append(_LANE)
                self.layer.append(layer)
        return lanes

    def sweep(self, order: Sequence[int], beside: Sequence[Sequence[int]]) -> None:
        """Order each row by the neighbours on one side, and place it there."""
        for number in order:
            row = self.rows[number]
            wanted = {i: self._mean(i, beside) for i in row}
            row.sort(key=lambda i: wanted[i])  # of equals, the earlier one stays the first
            self._set(row, [wanted[i] for i in row])

    def _mean(self, i: int, beside: Sequence[Sequence[int]]) -> float:
        near = beside[i]
        return sum(self.middle[j] for j in near) / len(near) if near else self.middle[i]

    def _set(self, row: Sequence[int], wanted: Sequence[float]) -> None:
        """Place a row in its order, as near to what is wanted as can be.

        Once the least distances are taken off, places may not fall: pools of neighbours that would
        share the mean of what they want.
        """
        offsets, at = [], 0.0
        for k, i in enumerate(row):
            if k:
                at += (self.widths[row[k - 1]] + self.widths[i]) / 2 + _GAP
            offsets.append(at)
        pools: list[tuple[float, int]] = []  # sum of what is wanted, and of how many
        for want, offset in zip(wanted, offsets, strict=True):
            total, count = want - offset, 1
            while pools and pools[-1][0] * count >= total * pools[-1][1]:
                more, others = pools.pop()
                total, count = total + more, count + others
            pools.append((total, count))
        bases = [total / count for total, count in pools for _ in range(count)]
        for i, base, offset in zip(row, bases, offsets, strict=True):
            self.middle[i] = base + offset

    def placed(self) -> Placed:
        """The places found."""
        tops, y = [], 0.0
        for row in self.rows:
            tops.append(y)
            y += max((self.sizes[i][1] for i in row if i < len(self.sizes)), default=0.0) + _STEP
        left = min((x - w / 2 for x, w in zip(self.middle, self.widths, strict=True)), default=0.0)
        right = max((x + w / 2 for x, w in zip(self.middle, self.widths, strict=True)), default=0.0)
        middle = [x - left for x in self.middle]
        corners = [
            (middle[i] - width / 2, tops[self.layer[i]]) for i, (width, _) in enumerate(self.sizes)
        ]
        routes = []
        for chain in self.chains:
            a, *lanes, b = chain
            route = [(middle[a], corners[a][1] + self.sizes[a][1])]
            for i in lanes:  # straight past the boxes of the layer
                layer = self.layer[i]
                route += [(middle[i], tops[layer]), (middle[i], tops[layer + 1] - _STEP)]
            routes.append([*route, (middle[b], corners[b][1])])
        return Placed(corners, routes, right - left, max(y - _STEP, 0.0))
