"""Moments: how many rows count, and what few of them foretell."""

from __future__ import annotations

import pytest
import torch

from graphprune.compensation.refit import refit
from graphprune.statistics.moments import Moments, observed


def test_rows_that_are_alike_count_as_one() -> None:
    torch.manual_seed(0)
    rows = torch.randn(1, 40, 8, dtype=torch.float64)
    alike = rows.repeat_interleave(10, 1)
    (one,) = observed([(rows, rows)], 40, Moments()).scarcity().tolist()
    (ten,) = observed([(alike, alike)], 40, Moments()).scarcity().tolist()
    (apart,) = observed([(rows, rows)], 4, Moments()).scarcity().tolist()
    (worthless,) = observed([(rows, rows)], 40, Moments(0.5)).scarcity().tolist()
    assert ten == pytest.approx(one)
    assert worthless == pytest.approx(2 * one)
    assert apart == pytest.approx(one, rel=0.5), "rows of a sample that differ all count"


def test_the_power_of_targets_is_that_of_their_second_moments() -> None:
    torch.manual_seed(0)
    y, x = torch.randn(2, 50, 5).double() + 3, torch.randn(2, 50, 4).double()
    moments = observed([(y[:, :20], x[:, :20]), (y[:, 20:], x[:, 20:])], 10, Moments())
    torch.testing.assert_close(moments.power(False), y.square().mean(1))
    torch.testing.assert_close(moments.power(True), y.var(1, unbiased=False))


def test_a_fit_to_few_rows_foretells_others_better_for_its_ridge() -> None:
    """Fitted as tightly as rows allow, the weights would follow what is chance in them."""
    torch.manual_seed(0)
    mix = torch.randn(60, 60, dtype=torch.float64)

    def rows(number: int) -> torch.Tensor:
        return (torch.randn(number, 60, dtype=torch.float64) @ mix)[None]

    kept = torch.arange(40)
    few, many = rows(50), rows(4000)
    moments = observed([(few, few[..., kept])], 50, Moments())
    identity = torch.eye(60, dtype=torch.float64)[None, ..., None]
    solution, shift, _ = refit(identity, moments, kept, True)
    design = torch.cat([few[0, :, kept], torch.ones(50, 1, dtype=torch.float64)], 1)
    tight = torch.linalg.lstsq(design, few[0]).solution
    found = many[0, :, kept] @ solution[0, ..., 0].T + shift[0]
    other = many[0, :, kept] @ tight[:-1] + tight[-1]
    assert (found - many[0]).square().mean() < 0.7 * (other - many[0]).square().mean()


def test_few_rows_are_drawn_towards_what_is_expected():
    torch.manual_seed(0)
    truth = torch.full((1, 60, 60), 0.8) + 0.2 * torch.eye(60)
    rows = torch.randn(1, 8, 60) @ torch.linalg.cholesky(truth).mT
    kept = torch.arange(0, 60, 2)
    errors = []
    for expected in (None, truth):
        moments = Moments()
        moments.sampled(rows[..., kept], 8)
        moments.add(rows, rows[..., kept])
        if expected is not None:
            moments.expect(expected, kept)
        cross, own = moments.second(central=True)
        variances = rows[..., kept].double().var(1, correction=0)
        assert torch.allclose(own.diagonal(dim1=1, dim2=2), variances)
        spread = moments.power(central=True).sqrt()
        scaled = cross / spread[..., None] / variances.sqrt()[:, None]
        errors.append(float((scaled - truth[..., kept]).norm()))
    assert errors[1] < 0.8 * errors[0]
