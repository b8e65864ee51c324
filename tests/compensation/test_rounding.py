"""Solutions go to stored integers so that what they compute changes little."""

from __future__ import annotations

import pytest
import torch

from graphprune.compensation.rounding import Steps, rounded

SCALE = 0.1


def _case(columns: int) -> tuple[torch.Tensor, torch.Tensor, Steps]:
    """A solution, correlated covariances of what is read, and integers of four bits."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(400, 8, generator=generator) @ torch.randn(8, columns, generator=generator)
    read = (shared + 0.1 * torch.randn(400, columns, generator=generator)).double()
    covariance = (read.T @ read / 400 + 1e-3 * torch.eye(columns))[None]
    solution = 0.3 * torch.randn(1, 6, columns, generator=generator).double()
    shape = (1, 6, columns, 1)
    return solution, covariance, _steps(shape, SCALE)


def _steps(shape: tuple[int, ...], scale: float, own: bool = False) -> Steps:
    """One step for all, and integers of four bits."""
    which, whole = torch.zeros(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.float64)
    steps = torch.tensor([scale], dtype=torch.float64)
    return Steps(steps, which, -8 * whole, 7 * whole, whole > 0, own)


def _lost(error: torch.Tensor, covariance: torch.Tensor) -> float:
    return float(((error @ covariance) * error).sum())


@pytest.mark.parametrize("columns", [24, 300])  # in one block, and in several
def test_columns_make_up_for_those_before(columns: int) -> None:
    solution, covariance, steps = _case(columns)
    ours = steps.of(torch.arange(columns), solution)
    found = rounded(solution, torch.linalg.cholesky(covariance), ours)
    whole = found / SCALE
    torch.testing.assert_close(whole, whole.round())
    assert whole.min() >= -8 and whole.max() <= 7
    nearest = torch.stack([ours.nearest(solution[:, :, i], i) for i in range(columns)], 2)
    assert _lost(found - solution, covariance) < 0.6 * _lost(nearest - solution, covariance)


def test_the_example_of_the_docs() -> None:
    solution = torch.tensor([[[0.4, 0.4]]], dtype=torch.float64)
    equal = torch.ones(1, 2, 2, dtype=torch.float64) + 1e-6 * torch.eye(2, dtype=torch.float64)
    steps = _steps((1, 1, 2, 1), 1.0).of(torch.arange(2), solution)
    found = rounded(solution, torch.linalg.cholesky(equal), steps)
    assert found.tolist() == [[[0.0, 1.0]]]


def test_what_is_on_the_grid_stays() -> None:
    _, covariance, steps = _case(24)
    generator = torch.Generator().manual_seed(1)
    on = SCALE * torch.randint(-8, 8, (1, 6, 24), generator=generator).double()
    found = rounded(on, torch.linalg.cholesky(covariance), steps.of(torch.arange(24), on))
    torch.testing.assert_close(found, on)


def test_a_step_of_its_own_reaches_the_largest() -> None:
    solution = torch.tensor([[[2.1, -0.3], [-4.0, 0.1]]], dtype=torch.float64)
    kept = torch.arange(2)
    (step,) = _steps((1, 2, 2, 1), 0.1, own=True).of(kept, solution).fitted(solution).scales
    torch.testing.assert_close(step, torch.tensor(0.5, dtype=torch.float64))
    (step,) = _steps((1, 2, 2, 1), 0.1).of(kept, solution).fitted(solution).scales
    assert step == 0.1
