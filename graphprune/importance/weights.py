"""Criteria that look at nothing but the weights."""

from __future__ import annotations

import numpy as np
import torch

from graphprune.core.errors import GraphPruneError
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import holdings
from graphprune.importance.context import Context, Parts, by_slice, summing
from graphprune.importance.kernels import ABSOLUTE, SQUARED, Scores
from graphprune.importance.registry import criterion
from graphprune.importance.stored import Stored
from graphprune.rules.scalings import gain


@criterion("l1")
def l1(context: Context) -> Parts:
    """Sum of |w| (Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017)."""
    return by_slice(context.deps, summing(ABSOLUTE))


@criterion("l2")
def l2(context: Context) -> Parts:
    """Sum of w²; over a group, the square of its `group_norm`."""
    return by_slice(context.deps, summing(SQUARED))


@criterion("group_norm", "mu-2sigma")
def group_norm(context: Context) -> Parts:
    """Norm of all that an index owns (Fang et al., DepGraph, CVPR 2023): the root of `l2`.

    The order within a group is that of `l2`; between groups, it grows with the weights and not
    with their squares.
    """
    return [[np.sqrt(np.sum(held, axis=0))] for held in l2(context)]


@criterion("bn_scale")
def bn_scale(context: Context) -> Parts:
    """|scale| of the normalisation layers (Liu et al., Network Slimming, ICCV 2017).

    Groups that no normalisation scales are scored by their L1 norm relative to its mean.

    Raises:
        GraphPruneError: No normalisation of the model has a scale.
    """
    deps = context.deps
    scales = {value: torch.as_tensor(value.tensor) for value in _scales(deps)}
    if not scales:
        raise GraphPruneError(
            "importance='bn_scale' needs normalisation layers with a scale; this model has none: "
            "use 'l2'"
        )
    parts = by_slice(deps, summing(ABSOLUTE), scales)
    for held, plain in zip(parts, l1(context), strict=True):
        if not held:
            total = np.sum(plain, axis=0)
            held.append(total / max(float(total.mean()), 1e-30))
    return parts


def _scales(deps: Dependencies) -> list[Value]:
    """Vectors that scale what a normalisation gives: its first operand that is a parameter."""
    gains = (gain(op) for op in deps.source.ops)
    return list(dict.fromkeys(value for value in gains if value is not None))


@criterion("fpgm")
def fpgm(context: Context) -> Parts:
    """Sum of distances to the other indices (He et al., Filter Pruning via Geometric Median, 2019).

    What an index owns in all members is one vector; near the geometric median is what the others
    can replace. The Gram matrices are left to BLAS.
    """
    deps = context.deps
    stored = Stored(deps)
    grams: dict[int, torch.Tensor] = {}
    ids = {group.axis: group.id for group in deps.groups}
    for value in deps.source.parameters():
        tensor = stored.numbers(value).float()
        for number, dim in enumerate(deps.dims[value]):
            for axis, positions, indices in holdings(dim):
                if axis in ids:
                    order = positions[np.argsort(indices, kind="stable")]
                    rows = tensor.movedim(number, 0).reshape(tensor.shape[number], -1)
                    if not np.array_equal(order, np.arange(len(rows))):
                        rows = rows[torch.as_tensor(order, device=rows.device)]
                    rows = rows.reshape(axis.size, -1)
                    gram = grams.setdefault(
                        ids[axis], torch.zeros(axis.size, axis.size, device=rows.device)
                    )
                    gram.addmm_(rows, rows.t())
    return [[_distances(grams[group.id])] for group in deps.groups]


def _distances(gram: torch.Tensor) -> Scores:
    squares = gram.diagonal()
    apart = (squares[:, None] + squares[None, :] - 2 * gram).clamp_(min=0).sqrt_()
    return np.asarray(apart.fill_diagonal_(0).double().sum(1).cpu(), dtype=np.float64)


@criterion("random")
def random(context: Context) -> Parts:
    """Uniform random numbers: the baseline that a criterion has to beat."""
    generator = np.random.default_rng(context.seed)
    return [[generator.random(group.size)] for group in context.deps.groups]
