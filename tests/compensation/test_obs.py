"""OBS elimination against plain NumPy, and against what it claims."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from graphprune.compensation import obs
from graphprune.compensation.obs import damped_inverse, eliminate, eliminate_blocks

Array = npt.NDArray[np.float64]


def _problem(n: int, seed: int, outputs: int = 7) -> tuple[Array, Array, Array]:
    generator = np.random.default_rng(seed)
    mixed = generator.normal(size=(4 * n, n)) @ generator.normal(size=(n, n))
    w = generator.normal(size=(outputs, n))
    return mixed.T @ mixed / len(mixed), w, w.T @ w


def _reference(inverse: Array, weight: Array, count: int) -> tuple[list[int], list[float]]:
    """The definition, with full matrices."""
    h, a = inverse.copy(), weight.copy()
    live = list(range(h.shape[1]))
    order, losses = [], []
    for _ in range(count):
        costs = [sum(a[s, i, i] / h[s, i, i] for s in range(len(h))) for i in live]
        i = live[int(np.argmin(costs))]
        order.append(i)
        losses.append(min(costs))
        live.remove(i)
        for s in range(len(h)):
            p = np.eye(h.shape[1])
            p[i] -= h[s, i] / h[s, i, i]
            a[s] = p.T @ a[s] @ p
            h[s] -= np.outer(h[s, i], h[s, i]) / h[s, i, i]
    return order, losses


@pytest.mark.parametrize("n", [1, 2, 5, 33, 64, 150])
@pytest.mark.parametrize("layers", [1, 3])
def test_the_kernel_is_the_definition(n: int, layers: int) -> None:
    problems = [_problem(n, seed) for seed in range(layers)]
    inverse = np.stack([damped_inverse(c) for c, _, _ in problems])
    weight = np.stack([a for _, _, a in problems])
    order, losses = _reference(inverse, weight, n)
    found = eliminate(inverse, weight, n)
    assert found.order.tolist() == order
    # What is left after the weights' rank is used up is rounding, relative to what there was.
    np.testing.assert_allclose(found.losses, losses, rtol=1e-6, atol=1e-9 * max(losses))


@pytest.mark.parametrize("n", [5, 33, 150])
def test_wide_problems_in_single_precision_are_the_definition_as_well(
    n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(obs, "DOUBLE_BELOW", n)
    covariance, _, weight = _problem(n, 0, outputs=n)
    inverse = damped_inverse(covariance)
    order, losses = _reference(inverse[None], weight[None], n)
    found = eliminate(inverse, weight, n)
    assert found.order.tolist() == order
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)


@pytest.mark.parametrize("double", [True, False])
def test_indices_of_several_inputs_are_those_of_the_definition(
    double: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, sizes = 9, (3, 1, 4)
    monkeypatch.setattr(obs, "DOUBLE_BELOW", 10**9 if double else 1)
    problems = [_problem(n * size, size, outputs=5) for size in sizes]
    systems = [
        (damped_inverse(c).reshape(n, size, n, size), a.reshape(n, size, n, size))
        for (c, _, a), size in zip(problems, sizes, strict=True)
    ]
    order, losses = _reference_of_blocks(systems, n)
    found = eliminate_blocks(systems, n)
    assert found.order.tolist() == order
    np.testing.assert_allclose(found.losses, losses, rtol=1e-6 if double else 1e-3)


def _reference_of_blocks(
    systems: list[tuple[Array, Array]], n: int
) -> tuple[list[int], list[float]]:
    """The definition: what stays is refitted from the start after each removal."""
    order: list[int] = []
    losses: list[float] = []
    for _ in range(n):
        live = [i for i in range(n) if i not in order]
        costs = [sum(_error(h, a, [*order, i]) for h, a in systems) - sum(losses) for i in live]
        order.append(live[int(np.argmin(costs))])
        losses.append(min(costs))
    return order, losses


def _error(inverse: Array, weight: Array, gone: list[int]) -> float:
    """The squared error after some indices have gone and the rest is refitted."""
    size = inverse.shape[1]
    h, a = (m.reshape(m.shape[0] * size, -1) for m in (inverse, weight))
    inputs = np.concatenate([np.arange(size) + i * size for i in gone])
    grid = np.ix_(inputs, inputs)
    return float(np.trace(np.linalg.inv(h[grid]) @ a[grid]))


def test_the_sum_of_losses_is_the_error_of_the_best_refit() -> None:
    covariance, w, a = _problem(20, 1)
    raised = np.linalg.inv(damped_inverse(covariance))
    found = eliminate(damped_inverse(covariance), a, 12)
    kept = np.setdiff1d(np.arange(20), found.order)
    refit = raised[:, kept] @ np.linalg.inv(raised[np.ix_(kept, kept)])
    error = np.trace(w @ (raised - refit @ raised[kept]) @ w.T)
    assert np.isclose(found.losses.sum(), error, rtol=1e-9)


def test_a_copy_goes_first_and_costs_nothing() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(100, 6))
    x[:, 4] = x[:, 1]
    found = eliminate(damped_inverse(x.T @ x / 100, 1e-9), np.eye(6), 2)
    assert found.order[0] in (1, 4)
    assert found.losses[0] < 1e-6 < found.losses[1]


def test_operands_are_left_alone() -> None:
    covariance, _, a = _problem(8, 3)
    inverse = damped_inverse(covariance)
    before = inverse.copy(), a.copy()
    strided = np.asfortranarray(inverse)[::1]
    assert eliminate(strided, a, 8).order.tolist() == eliminate(inverse, a, 8).order.tolist()
    np.testing.assert_array_equal(inverse, before[0])
    np.testing.assert_array_equal(a, before[1])


def test_nothing_and_too_much() -> None:
    _, _, a = _problem(4, 0)
    assert len(eliminate(np.eye(4), a, 0).order) == 0
    with pytest.raises(ValueError, match="5 of 4 inputs cannot go"):
        eliminate(np.eye(4), a, 5)
    with pytest.raises(ValueError, match="not square and alike"):
        eliminate(np.eye(3), a, 1)


def test_a_dead_input_leaves_the_inverse_finite() -> None:
    assert np.isfinite(damped_inverse(np.zeros((3, 3)))).all()
