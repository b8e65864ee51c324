"""Criteria that look at what calibration data makes of the channels; labels are not needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
import torch

from graphprune.core.axes import atoms, leaves
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.core.progress import tracked
from graphprune.importance.context import Context, Parts, by_slice, spread, summing
from graphprune.importance.kernels import ABSOLUTE, SIGNED, SQUARED, Scores, slice_sum
from graphprune.importance.registry import criterion
from graphprune.importance.stored import Stored
from graphprune.rules.products import Product, products
from graphprune.statistics.observe import Visit, observe

Tap: TypeAlias = "tuple[Value, int]"
"""A value of the graph and the dimension of it that is watched."""


@criterion("activation")
def activation(context: Context) -> Parts:
    """Mean of |a| over samples and positions, of what a group's consumers read."""
    return _watched(context, _mean_of(lambda a, d: slice_sum(a, d, ABSOLUTE)))


@criterion("activation_variance")
def activation_variance(context: Context) -> Parts:
    """Variance of a over samples and positions, of what a group's consumers read."""
    first = _mean_of(lambda a, d: slice_sum(a, d, SIGNED))
    second = _mean_of(lambda a, d: slice_sum(a.double().square(), d, SIGNED))

    def moments(a: torch.Tensor, d: int) -> Scores:
        return np.stack([first(a, d), second(a, d)])

    found = _watched(context, moments, finish=lambda m: m[1] - m[0] ** 2)
    return [[np.maximum(variance, 0) for variance in held] for held in found]


@criterion("apoz")
def apoz(context: Context) -> Parts:
    """Share of activations that are not zero, 1 - APoZ (Hu et al., Network Trimming, 2016)."""
    return _watched(context, _mean_of(lambda a, d: slice_sum((a != 0).float(), d, SIGNED)))


@criterion("hrank")
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


@criterion("wanda")
def wanda(context: Context) -> Parts:
    """|w|·‖x‖ with the norm of the input feature (Sun et al., Wanda, ICLR 2024), over slices.

    Every weight counts that an operation multiplies an input by and sums: which those are, and
    which number of the input meets which of the weight, is in the operation's signature.
    """
    deps = context.deps
    behind = _behind(deps)
    meetings = [m for op in deps.source.ops for p in products(op) for m in _meetings(p, behind)]
    squares: dict[Feature, torch.Tensor] = {}
    watched: dict[Value, dict[Feature, None]] = {}
    for meeting in meetings:
        watched.setdefault(meeting.feature.value, {})[meeting.feature] = None

    def visit(value: Value, tensor: torch.Tensor) -> None:
        for feature in watched[value]:
            found = feature.squares(tensor)
            squares[feature] = squares[feature] + found if feature in squares else found

    _run(context, watched.keys(), visit)
    stored = Stored(deps)
    salient: dict[Value, torch.Tensor] = {}
    for meeting in meetings:
        weight = meeting.weight
        if meeting.feature not in squares:
            continue
        found = meeting.scaled(stored.numbers(weight), squares[meeting.feature])
        salient[weight] = salient[weight] + found if weight in salient else found
    return by_slice(deps, summing(SIGNED), salient)


@dataclass(frozen=True)
class Feature:
    """What of a value a weight tells apart: an index of each letter that both hold.

    Attributes:
        value: The value.
        letters: The letters of each of its dimensions, outermost first.
        kept: Those that the weight holds too, with their lengths, in their order here.
    """

    value: Value
    letters: tuple[tuple[str, ...], ...]
    kept: tuple[tuple[str, int], ...]

    def squares(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sums of squares over all other dimensions, one for each index of the letters."""
        sizes = dict(self.kept)
        holding = [at for at, held in enumerate(self.letters) if sizes.keys() & set(held)]
        if len(holding) == 1 and all(name in sizes for name in self.letters[holding[0]]):
            found = torch.as_tensor(slice_sum(tensor, holding[0], SQUARED))
            return found.view([size for _, size in self.kept])
        tensor = tensor.movedim(holding, list(range(-len(holding), 0))) if holding else tensor
        tensor = tensor.abs().double().square().sum(list(range(tensor.dim() - len(holding))))
        shape: list[int] = []
        gone: list[int] = []
        for at, size in zip(holding, tensor.shape, strict=True):
            held = self.letters[at]
            known = prod(sizes.get(name, 1) for name in held)
            for name in held:
                if name not in sizes:
                    gone.append(len(shape))
                shape.append(sizes.get(name, size // known))
        found = tensor.reshape(shape)
        return (found.sum(gone) if gone else found).cpu()


@dataclass(frozen=True)
class Meeting:
    """A weight, and what it is multiplied by and summed over.

    Attributes:
        weight: The weight.
        letters: The letters of each of its dimensions.
        sizes: Lengths of the letters.
        feature: What it meets.
    """

    weight: Value
    letters: tuple[tuple[str, ...], ...]
    sizes: Mapping[str, int]
    feature: Feature

    def scaled(self, weight: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        """|w| times the norm of what it meets."""
        names: list[str] = []
        shape: list[int] = []
        for size, held in zip(weight.shape, self.letters, strict=True):
            names += held or [""]
            shape += [self.sizes[name] for name in held] if len(held) > 1 else [size]
        kept = [name for name, _ in self.feature.kept]
        order = sorted(range(len(kept)), key=lambda at: names.index(kept[at]))
        lengths = [size if name in kept else 1 for name, size in zip(names, shape, strict=True)]
        norms = squares.sqrt().permute(order).reshape(lengths)
        found = weight.abs().float().reshape(shape) * norms.to(weight.device, torch.float32)
        return found.reshape(weight.shape)


def _meetings(
    product: Product, behind: Mapping[Value, tuple[Value, Sequence[int]]]
) -> Iterator[Meeting]:
    """The ways in which a product reads a computed value through a parameter."""
    sides = (
        (product.x, product.x_letters, product.weight, product.weight_letters),
        (product.weight, product.weight_letters, product.x, product.x_letters),
    )
    for value, letters, weight, weight_letters in sides:
        if weight in behind:
            weight, order = behind[weight]
            weight_letters = tuple(weight_letters[at] for at in order)
        if weight.kind != "parameter" or value.is_weight or value in behind:
            continue
        known = {name for held in weight_letters for name in held}
        sizes = product.sizes
        shared = [name for held in letters for name in held if name in known]
        feature = Feature(value, letters, tuple((name, sizes[name]) for name in shared))
        yield Meeting(weight, weight_letters, sizes, feature)


def _behind(deps: Dependencies) -> dict[Value, tuple[Value, Sequence[int]]]:
    """The stored weight whose numbers a value is computed from, place by place or transposed.

    Returns:
        For each such value the weight, and for each of its dimensions which of the value's it is.
    """
    out: dict[Value, tuple[Value, Sequence[int]]] = {}
    for value, parts in deps.source.derived().items():
        dims = [tuple(leaves(dim)) for dim in deps.dims[value]]
        held = [w for w in parts if w.kind == "parameter" and prod(w.shape) == prod(value.shape)]
        if len(held) != 1 or len(held[0].shape) != len(dims):
            continue
        own = [tuple(leaves(dim)) for dim in deps.dims[held[0]]]
        if own == dims:
            out[value] = held[0], range(len(dims))
        elif len(set(dims)) == len(dims) and set(own) == set(dims):
            out[value] = held[0], [dims.index(dim) for dim in own]
    return out


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
