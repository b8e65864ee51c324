"""Optimal Brain Surgeon: which inputs of linear layers can go, if what stays makes up for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numba
import numpy as np
import numpy.typing as npt

Matrix: TypeAlias = npt.NDArray[np.float64]
Vector: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]

_DAMPING = 1e-3  # of the mean variance, added to every variance before inversion


@dataclass(frozen=True)
class Elimination:
    """The order in which inputs go, and what each costs.

    Attributes:
        order: Indices, the first to go first.
        losses: Squared error of the outputs that each removal adds, the weights of what stays
            being refitted every time.
    """

    order: Indices
    losses: Vector


def eliminate(inverse: Matrix, weight: Matrix, count: int) -> Elimination:
    """Remove the inputs that cost least, one after the other.

    Greedy Optimal Brain Surgeon (Hassibi & Stork 1993) on the squared error of linear layers:
    removing input i adds `A_ii / [H⁻¹]_ii`; the weights that stay are refitted, which downdates
    both matrices. Of two inputs of equal cost the first goes.

    Args:
        inverse: H⁻¹, the inverse covariance of the inputs, `n x n`; for several layers that
            read the same channels, `layers x n x n`.
        weight: A = WᵀW, the Gram matrix of the weights' columns, of the same shape.
        count: How many inputs go, at most n.

    Returns:
        The indices in the order in which they go, and the error that each adds.

    Raises:
        ValueError: The shapes do not agree, or `count` is not in [0, n].
    """
    inverse, weight = (np.atleast_3d(m.T).T for m in (inverse, weight))
    if inverse.shape != weight.shape or inverse.shape[1] != inverse.shape[2]:
        raise ValueError(f"H⁻¹ is {inverse.shape}, A is {weight.shape}: not square and alike")
    if not 0 <= count <= inverse.shape[1]:
        raise ValueError(f"{count} of {inverse.shape[1]} inputs cannot go")
    # The kernel works in place, on copies.
    h = np.array(inverse, dtype=np.float64, order="C")
    a = np.array(weight, dtype=np.float64, order="C")
    return Elimination(*_eliminate(h, a, count))


@numba.njit(cache=True, fastmath={"contract", "nsz"})
def _eliminate(h: Any, a: Any, count: int) -> Any:  # pragma: no cover
    """Works on lower triangles; live inputs stand together, the last fills each gap."""
    layers, n = h.shape[0], h.shape[1]
    name = np.arange(n)
    order = np.empty(count, dtype=np.int64)
    losses = np.empty(count)
    row = np.empty(n)
    step = np.empty(n)
    for done in range(count):
        live = n - done
        best, least = 0, np.inf
        for i in range(live):
            loss = 0.0
            for s in range(layers):
                loss += a[s, i, i] / h[s, i, i]
            if loss < least or (loss == least and name[i] < name[best]):
                best, least = i, loss
        order[done], losses[done] = name[best], least
        last = live - 1
        name[best] = name[last]
        for s in range(layers):
            pivot, own = h[s, best, best], a[s, best, best]
            for k in range(live):
                row[k] = h[s, best, k] if k <= best else h[s, k, best]
                step[k] = a[s, best, k] if k <= best else a[s, k, best]
            _fill(h[s], best, last)
            _fill(a[s], best, last)
            row[best], step[best] = row[last], step[last]
            for k in range(last):
                row[k] /= pivot
                # Half of the square, so that one product serves both cross terms.
                step[k] -= 0.5 * own * row[k]
            for j in range(last):
                to_h, to_a = h[s, j], a[s, j]
                r, t = row[j], step[j]
                for k in range(j + 1):
                    to_a[k] -= r * step[k] + t * row[k]
                    to_h[k] -= pivot * r * row[k]
    return order, losses


@numba.njit(cache=True)
def _fill(matrix: Any, gap: int, last: int) -> None:  # pragma: no cover
    """Move the last row and column of a lower triangle to a gap."""
    if gap == last:
        return
    for k in range(gap):
        matrix[gap, k] = matrix[last, k]
    for k in range(gap + 1, last):
        matrix[k, gap] = matrix[last, k]
    matrix[gap, gap] = matrix[last, last]


def damped_inverse(covariance: Matrix, damping: float = _DAMPING) -> Matrix:
    """Inverse of a covariance, its diagonal raised by a share of its mean.

    Args:
        covariance: A symmetric matrix, `n x n`.
        damping: The share.
    """
    n = len(covariance)
    mean = float(np.trace(covariance)) / max(n, 1)
    ridge = max(damping * mean, 1e-12)
    raised = covariance + ridge * np.eye(n)
    inverse = np.linalg.inv(raised)
    return np.asarray((inverse + inverse.T) / 2, dtype=np.float64)


def eliminate_blocks(
    systems: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]], count: int
) -> Elimination:
    """As `eliminate`, for indices that own several inputs each: heads, flattened images.

    Removing the block S adds `tr(([H⁻¹]_SS)⁻¹ A_SS)`.

    Args:
        systems: H⁻¹ and A of each layer, `n x size x n x size`; the size of a block may differ
            from layer to layer.
        count: How many of the n indices go.
    """
    n = len(systems[0][0])
    pairs = [(h.copy(), a.copy()) for h, a in systems]
    live = np.ones(n, dtype=bool)
    order = np.empty(count, dtype=np.int64)
    losses = np.empty(count)
    every = np.arange(n)
    for done in range(count):
        cost = np.zeros(n)
        for h, a in pairs:
            own_h, own_a = h[every, :, every], a[every, :, every]
            own_h[~live] = np.eye(h.shape[1])
            cost += np.einsum("nij,nji->n", np.linalg.inv(own_h), own_a)
        cost[~live] = np.inf
        best = int(np.argmin(cost))
        order[done], losses[done] = best, cost[best]
        live[best] = False
        for h, a in pairs:
            _downdate_block(h, a, best)
    return Elimination(order, losses)


def _downdate_block(h: npt.NDArray[np.float64], a: npt.NDArray[np.float64], gone: int) -> None:
    n, size = h.shape[:2]
    flat_h, flat_a = h.reshape(n * size, n * size), a.reshape(n * size, n * size)
    block = slice(gone * size, (gone + 1) * size)
    rows = flat_h[block].copy()
    steps = np.linalg.solve(rows[:, block], rows)  # size x (n * size)
    cross = flat_a[block] - 0.5 * flat_a[block, block] @ steps
    flat_a -= steps.T @ cross + cross.T @ steps
    flat_h -= rows.T @ steps
