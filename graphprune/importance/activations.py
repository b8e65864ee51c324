"""Criteria that look at what calibration data makes of the channels; labels are not needed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeAlias

import numpy as np
import torch

from graphprune.core.axes import atoms
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.importance.context import Context, Parts, by_slice, spread, summing, tracked
from graphprune.importance.kernels import ABSOLUTE, SIGNED, SQUARED, Scores, slice_sum
from graphprune.statistics.observe import Visit, observe

Tap: TypeAlias = "tuple[Value, int]"
"""A value of the graph and the dimension of it that is watched."""


def activation(context: Context) -> Parts:
    """Mean of |a| over samples and positions, of what a group's consumers read."""
    return _watched(context, _mean_of(lambda a, d: slice_sum(a, d, ABSOLUTE)))


def activation_variance(context: Context) -> Parts:
    """Variance of a over samples and positions, of what a group's consumers read."""
    first = _mean_of(lambda a, d: slice_sum(a, d, SIGNED))
    second = _mean_of(lambda a, d: slice_sum(a.double().square(), d, SIGNED))

    def moments(a: torch.Tensor, d: int) -> Scores:
        return np.stack([first(a, d), second(a, d)])

    found = _watched(context, moments, finish=lambda m: m[1] - m[0] ** 2)
    return [[np.maximum(variance, 0) for variance in held] for held in found]


def apoz(context: Context) -> Parts:
    """Share of activations that are not zero, 1 - APoZ (Hu et al., Network Trimming, 2016)."""
    return _watched(context, _mean_of(lambda a, d: slice_sum((a != 0).float(), d, SIGNED)))


def hrank(context: Context) -> Parts:
    """Average rank of the feature maps (Lin et al., HRank, CVPR 2020).

    A map is what one sample holds of one channel: its two last dimensions where it has two or
    more, else a column, whose rank is one unless it is zero.
    """

    def ranks(a: torch.Tensor, dim: int) -> Scores:
        maps = a.movedim(dim, 0).float()
        while maps.dim() < 4:
            maps = maps.unsqueeze(-1)
        return np.asarray(
            torch.linalg.matrix_rank(maps).flatten(1).double().mean(1).cpu(), dtype=np.float64
        )

    return _watched(context, ranks)


def wanda(context: Context) -> Parts:
    """|w|·‖x‖ with the norm of the input feature (Sun et al., Wanda, ICLR 2024), over slices.

    Only weights that multiply an input count (linear layers, convolutions, matrix products).
    """
    deps = context.deps
    sites = _products(deps)
    squares: dict[Tap, Scores] = {}
    watched: dict[Value, dict[Tap, None]] = {}
    for _, tap, _ in sites:
        watched.setdefault(tap[0], {})[tap] = None

    def visit(value: Value, tensor: torch.Tensor) -> None:
        for tap in watched[value]:
            found = slice_sum(tensor, tap[1], SQUARED)
            squares[tap] = squares[tap] + found if tap in squares else found

    _run(context, watched.keys(), visit)
    salient: dict[Value, torch.Tensor] = {}
    for weight, tap, dim in sites:
        norms = torch.as_tensor(np.sqrt(squares[tap]))
        found = _scaled(torch.as_tensor(weight.tensor).detach(), norms, dim)
        salient[weight] = salient[weight] + found if weight in salient else found
    return by_slice(deps, summing(SIGNED), salient)


def _scaled(weight: torch.Tensor, norms: torch.Tensor, dim: int) -> torch.Tensor:
    """|w| times the norms of its inputs; where the weight is grouped, each group has its own."""
    norms = norms.to(weight.device, torch.float32)
    width = weight.shape[dim]
    shape = [1] * weight.dim()
    shape[dim] = width
    if len(norms) == width:
        return weight.abs().float() * norms.view(shape)
    rows = norms.view(-1, width).repeat_interleave(len(weight) * width // len(norms), 0)
    shape[0] = len(weight)
    return weight.abs().float() * rows.view(shape)


def _products(deps: Dependencies) -> list[tuple[Value, Tap, int]]:
    """Weights that multiply an input: the weight, the input's feature dimension, the weight's."""
    out: list[tuple[Value, Tap, int]] = []
    for op in deps.source.ops:
        name = op.type.partition(".")[2] or op.type
        operands = [v for v in op.inputs if v is not None]
        if name.startswith(("conv1d", "conv2d", "conv3d", "Conv")) and len(operands) > 1:
            x, weight = operands[:2]
            out.append((weight, (x, len(x.shape) - len(weight.shape) + 1), 1))
        elif name == "linear":
            x, weight = operands[:2]
            out.append((weight, (x, len(x.shape) - 1), len(weight.shape) - 1))
        elif name in ("matmul", "mm", "addmm", "MatMul"):
            x, weight = operands[-2:]
            if weight.is_weight and len(weight.shape) == 2:
                out.append((weight, (x, len(x.shape) - 1), 0))
    return [(w, tap, dim) for w, tap, dim in out if w.kind == "parameter" and not tap[0].is_weight]


def taps(deps: Dependencies) -> list[list[Tap]]:
    """For each group the activations that hold its axis where an operation contracts it.

    Those are what removal takes from the consumers. Groups that nothing contracts are watched
    at every result that holds their axis.
    """
    ids = {group.axis: group.id for group in deps.groups}
    found: list[dict[Tap, None]] = [{} for _ in deps.groups]
    others: list[dict[Tap, None]] = [{} for _ in deps.groups]
    for op in deps.source.ops:
        gone = {axis for dim in deps.effects[op].contracts for axis in atoms(dim)}
        values = [(v, found, gone) for v in op.inputs if v is not None and not v.is_weight]
        for value, into, only in [*values, *((v, others, None) for v in op.outputs)]:
            for number, dim in enumerate(deps.dims[value]):
                for axis in dict.fromkeys(atoms(dim)):
                    if axis in ids and (only is None or axis in only):
                        into[ids[axis]][value, number] = None
    return [list(a or b) for a, b in zip(found, others, strict=True)]


def _run(context: Context, wanted: Collection[Value], visit: Visit) -> None:
    batches = context.replay(context.data())
    runs = observe(context.deps, batches, wanted, visit)
    for _ in tracked(runs, f"importance {context.name}", len(batches)):
        pass


def _mean_of(total: Callable[[torch.Tensor, int], Scores]) -> Callable[[torch.Tensor, int], Scores]:
    return lambda a, d: total(a, d) * (a.shape[d] / max(a.numel(), 1))


def _watched(
    context: Context,
    statistic: Callable[[torch.Tensor, int], Scores],
    finish: Callable[[Scores], Scores] = lambda total: total,
) -> Parts:
    """A statistic of every tapped activation, averaged over batches."""
    deps = context.deps
    watched = taps(deps)
    wanted: dict[Value, set[int]] = {}
    for held in watched:
        for value, dim in held:
            wanted.setdefault(value, set()).add(dim)
    totals: dict[Tap, Scores] = {}
    counts: dict[Tap, int] = {}

    def visit(value: Value, tensor: torch.Tensor) -> None:
        samples = tensor.shape[0] if tensor.dim() else 1
        for dim in wanted[value]:
            found = statistic(tensor, dim) * samples
            tap = (value, dim)
            totals[tap] = totals[tap] + found if tap in totals else found
            counts[tap] = counts.get(tap, 0) + samples

    _run(context, wanted.keys(), visit)
    parts: Parts = []
    for group, held in zip(deps.groups, watched, strict=True):
        parts.append([])
        for tap in held:
            scores = finish(totals[tap] / counts[tap])
            for axis, owned in spread(deps.dims[tap[0]][tap[1]], scores):
                if axis is group.axis:
                    parts[-1].append(owned)
    return parts
