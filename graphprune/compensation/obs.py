"""Optimal Brain Surgeon: which inputs of linear layers to remove where the rest is refitted.

With H the second moments (or covariance) of the inputs and A = WᵀW, the squared error of the
outputs that remains after input i is removed and all others are refitted is

    loss_i = A_ii / [H⁻¹]_ii                       (Hassibi & Stork, NIPS 1993)

The input of least loss goes; H⁻¹ and A are updated to the refitted weights; and so on.

Example:
    Two inputs of variance 1 and correlation 0.9 have [H⁻¹]_ii = 1 / (1 - 0.81): the second can
    stand in for the first, and removing it costs 0.19 of what it would cost alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
import torch

from graphprune.compensation.constants import (
    BLOCK_ROWS,
    BLOCK_STEPS,
    DAMPING,
    DOUBLE_BELOW,
    LIVE_LEAST,
    RIDGE_FLOOR,
)

Matrix: TypeAlias = npt.NDArray[np.float64]
Vector: TypeAlias = npt.NDArray[np.float64]
Reals: TypeAlias = npt.NDArray[np.floating[Any]]
"""Of either precision."""
Indices: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Elimination:
    """The order in which inputs are removed, and what each removal costs.

    Attributes:
        order: Numbers of the inputs, first removed first.
        losses: The squared error of the outputs that each removal adds, the others being refitted.
    """

    order: Indices
    losses: Vector


def eliminate(inverse: Matrix, weight: Matrix, count: int) -> Elimination:
    """Remove inputs one after the other, each time the one of least loss.

    The losses of several layers that read the same inputs are added. Of equal losses, the input of
    the lowest number goes.

    Args:
        inverse: H⁻¹, `n x n`, or `layers x n x n`.
        weight: A = WᵀW, of the same shape.
        count: Number of inputs to remove, at most n.

    Returns:
        The order and the losses.

    Raises:
        ValueError: The shapes do not agree, or `count` is not in [0, n].
    """
    inverse, weight = (m[None] if m.ndim == 2 else m for m in (inverse, weight))
    if inverse.shape != weight.shape or inverse.shape[1] != inverse.shape[2]:
        raise ValueError(f"H⁻¹ is {inverse.shape}, A is {weight.shape}: not square and alike")
    if not 0 <= count <= inverse.shape[1]:
        raise ValueError(f"{count} of {inverse.shape[1]} inputs cannot go")
    # Both are updated in place: these are copies.
    h, a = (np.array(m, dtype=_precision(inverse.shape[1]), order="C") for m in (inverse, weight))
    return _eliminate(h, a, count)


def _eliminate(h: Reals, a: Reals, count: int) -> Elimination:
    """Remove inputs in blocks of `BLOCK_STEPS`; matrices are updated once for each block.

    Within a block, a step needs one row of each matrix and the diagonals. These are brought up to
    date from the pending steps (lazy updates, as in LAPACK's blocked factorisations and GPTQ:
    Frantar et al., ICLR 2023). Only lower triangles are used.
    """
    layers, n = h.shape[:2]
    name = np.arange(n)
    order, losses = np.empty(count, dtype=np.int64), np.empty(count)
    diagonals = np.stack([m.diagonal(axis1=1, axis2=2) for m in (h, a)], axis=1).astype(np.float64)
    pivots = np.empty((layers, BLOCK_STEPS), h.dtype)
    for done in range(0, count, BLOCK_STEPS):
        live, steps = n - done, min(BLOCK_STEPS, count - done)
        pending = np.empty((layers, 2, steps, live), h.dtype)
        found = order[done : done + steps], losses[done : done + steps]
        gaps = _steps(h, a, diagonals, name, pending, pivots, *found)
        if done + steps < count:
            kept = _close(gaps, live, name, diagonals, pending, h, a)
            for s in range(layers):
                _downdate(h[s], a[s], pending[s, :, :, :kept], pivots[s, :steps])
    return Elimination(order, losses)


@numba.njit(cache=True, fastmath={"contract", "nsz"})
def _steps(
    h: Any,
    a: Any,
    diagonals: Any,
    name: Any,
    pending: Any,
    pivots: Any,
    order: Any,
    losses: Any,
) -> Any:  # pragma: no cover
    """Remove a block of inputs; leave the updates of the matrices pending.

    With p = [H⁻¹]_ii, r = [H⁻¹]_i / p and t = A_i - A_ii r / 2, removing input i turns H⁻¹ into
    H⁻¹ - p r rᵀ and A into A - r tᵀ - t rᵀ.

    Args:
        h: H⁻¹ of each layer, `layers x n x n`; lower triangles are read.
        a: A of each layer, likewise.
        diagonals: Those of both, `layers x 2 x n`; updated.
        name: The number of the input at each position.
        pending: `layers x 2 x steps x live`; r and t of every step are written here.
        pivots: `layers x steps`; p of every step is written here.
        order: Numbers of the removed inputs are written here.
        losses: Their losses are written here.

    Returns:
        The positions of the removed inputs.
    """
    layers, _, steps, live = pending.shape
    gone = np.zeros(live, dtype=np.bool_)
    gaps = np.empty(steps, dtype=np.int64)
    for step in range(steps):
        best, least = -1, np.inf
        for i in range(live):
            if not gone[i]:
                loss = 0.0
                for s in range(layers):
                    loss += diagonals[s, 1, i] / diagonals[s, 0, i]
                if best < 0 or loss < least or (loss == least and name[i] < name[best]):
                    best, least = i, loss
        gone[best], gaps[step] = True, best
        order[step], losses[step] = name[best], least
        for s in range(layers):
            r, t = pending[s, 0, step], pending[s, 1, step]
            for k in range(live):
                r[k] = h[s, best, k] if k <= best else h[s, k, best]
                t[k] = a[s, best, k] if k <= best else a[s, k, best]
            for e in range(step):
                to_r, to_t = pending[s, 0, e], pending[s, 1, e]
                x, y = to_r[best], to_t[best]
                z = x * pivots[s, e]
                for k in range(live):
                    r[k] -= z * to_r[k]
                    t[k] -= x * to_t[k] + y * to_r[k]
            pivot, own = r[best], t[best]
            pivots[s, step] = pivot
            to_h, to_a = diagonals[s, 0], diagonals[s, 1]
            for k in range(live):
                r[k] /= pivot
                # Half of the square here, so that r tᵀ + t rᵀ holds all of it.
                t[k] -= 0.5 * own * r[k]
                to_h[k] -= pivot * r[k] * r[k]
                to_a[k] -= 2.0 * r[k] * t[k]
    return gaps


@numba.njit(cache=True)
def _close(
    gaps: Any, live: int, name: Any, diagonals: Any, pending: Any, h: Any, a: Any
) -> int:  # pragma: no cover
    """Move the last live inputs into the gaps.

    Returns:
        The number of live inputs, which hold the first positions now.
    """
    for gap in -np.sort(-gaps):
        live -= 1
        name[gap] = name[live]
        for s in range(len(h)):
            diagonals[s, :, gap] = diagonals[s, :, live]
            pending[s, :, :, gap] = pending[s, :, :, live]
            _fill(h[s], gap, live)
            _fill(a[s], gap, live)
    return live


@numba.njit(cache=True)
def _fill(matrix: Any, gap: int, last: int) -> None:  # pragma: no cover
    """Move the last row and column of a lower triangle into a gap."""
    if gap == last:
        return
    for k in range(gap):
        matrix[gap, k] = matrix[last, k]
    for k in range(gap + 1, last):
        matrix[k, gap] = matrix[last, k]
    matrix[gap, gap] = matrix[last, last]


def _downdate(h: Reals, a: Reals, pending: Reals, pivots: Reals) -> None:
    """Apply the pending updates to two lower triangles, `BLOCK_ROWS` rows at a time."""
    both = torch.from_numpy(pending.reshape(-1, pending.shape[-1]))
    r = both[: len(pivots)]
    scaled, swapped = r * torch.from_numpy(pivots)[:, None], both.roll(len(pivots), 0)
    to_h, to_a = torch.from_numpy(h), torch.from_numpy(a)
    live = both.shape[1]
    for start in range(0, live, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, live)
        to_h[start:stop, :stop].addmm_(scaled[:, start:stop].t(), r[:, :stop], alpha=-1)
        to_a[start:stop, :stop].addmm_(both[:, start:stop].t(), swapped[:, :stop], alpha=-1)


def damped_inverse(covariance: Matrix, damping: float = DAMPING) -> Matrix:
    """(C + λ I)⁻¹, with λ a share of the mean variance.

    Args:
        covariance: C, symmetric, `n x n`.
        damping: The share.
    """
    n = len(covariance)
    mean = float(np.trace(covariance)) / max(n, 1)
    raised = torch.from_numpy(covariance.copy())
    raised.diagonal().add_(max(damping * mean, RIDGE_FLOOR))
    factor, failed = torch.linalg.cholesky_ex(raised)
    if failed:  # rounding has made it indefinite: a general inverse
        inverse = np.linalg.inv(raised.numpy())
        return np.asarray((inverse + inverse.T) / 2, dtype=np.float64)
    return np.asarray(torch.cholesky_inverse(factor).numpy(), dtype=np.float64)


def eliminate_blocks(systems: Sequence[tuple[Reals, Reals]], count: int) -> Elimination:
    """As `eliminate`, for indices that own several inputs each: heads, flattened channels.

    Removing the inputs S of an index costs tr(([H⁻¹]_SS)⁻¹ A_SS).

    Args:
        systems: H⁻¹ and A of each layer, `n x size x n x size`; sizes may differ between layers.
        count: Number of indices to remove.

    Returns:
        The order and the losses.
    """
    n = len(systems[0][0])
    pairs = [
        tuple(np.array(m, dtype=_precision(n * m.shape[1]), order="C") for m in pair)
        for pair in systems
    ]
    held = np.arange(n)  # the indices whose inputs the matrices still have
    live = np.ones(n, dtype=bool)
    order = np.empty(count, dtype=np.int64)
    losses = np.empty(count)
    for done in range(count):
        if live.sum() <= LIVE_LEAST * len(held):
            pairs = [tuple(m[live][:, :, live].copy() for m in pair) for pair in pairs]
            held, live = held[live], live[live]
        every = np.flatnonzero(live)
        cost = np.full(len(held), np.inf)
        cost[live] = sum(
            np.einsum("nij,nji->n", np.linalg.inv(h[every, :, every]), a[every, :, every])
            for h, a in pairs
        )
        best = int(np.argmin(cost))
        order[done], losses[done] = held[best], cost[best]
        live[best] = False
        for h, a in pairs:
            _downdate_block(h, a, best)
    return Elimination(order, losses)


def _downdate_block(h: Reals, a: Reals, gone: int) -> None:
    """Remove the inputs of one index from H⁻¹ and A, in place."""
    n, size = h.shape[:2]
    flat_h, flat_a = h.reshape(n * size, n * size), a.reshape(n * size, n * size)
    block = slice(gone * size, (gone + 1) * size)
    rows = flat_h[block].copy()
    steps = np.linalg.solve(rows[:, block], rows)  # size x (n * size)
    cross = flat_a[block] - 0.5 * flat_a[block, block] @ steps
    # One product each, of twice the depth: these take most of the time.
    both, swapped = np.concatenate([steps, cross]), np.concatenate([cross, steps])
    to_a, to_h = torch.from_numpy(flat_a), torch.from_numpy(flat_h)
    to_a.addmm_(torch.from_numpy(both).t(), torch.from_numpy(swapped), alpha=-1)
    to_h.addmm_(torch.from_numpy(rows).t(), torch.from_numpy(steps), alpha=-1)


def _precision(width: int) -> type[np.floating[Any]]:
    """The type that inputs are eliminated in: `DAMPING` bounds the condition of wide systems."""
    return np.float64 if width < DOUBLE_BELOW else np.float32
