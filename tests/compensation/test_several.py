"""Weights that hold several matrices are solved for, each by what it reads; complex ones too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.statistics.moments import Moments


class Experts(nn.Module):
    """Rows in runs, each of which meets a matrix of its own: mixture of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 24)
        self.weight = nn.Parameter(torch.randn(3, 4, 24))

    def forward(self, x: Tensor) -> Tensor:
        product = torch.ops.transformers.grouped_mm_fallback
        signs = x[:, 0]
        kind = (signs > -0.5).int() + (signs > 0.5).int()
        order = kind.argsort(stable=True)
        ends = torch.nn.functional.one_hot(kind.long(), 3).sum(0).cumsum(0).int()
        found: Tensor = product(self.first(x).relu()[order], self.weight.transpose(1, 2), ends)
        return found[order.argsort()]


class Beside(nn.Module):
    """Every part of x meets a matrix of its own."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first = how, nn.Linear(6, 96)
        shapes = {"einsum": (24, 5, 4), "shared": (3, 24, 5)}
        self.weight = nn.Parameter(torch.randn(shapes.get(how, (4, 24, 5))))
        self.bias, self.gate = nn.Parameter(torch.randn(4, 1, 5)), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.first(x).relu().view(-1, 4, 24)
        if self.how == "matmul":
            return (parts.transpose(0, 1) @ self.weight).transpose(0, 1)
        if self.how == "biased":
            return torch.baddbmm(self.bias, parts.transpose(0, 1), self.weight).transpose(0, 1)
        if self.how == "gated":
            share = self.gate(x).sigmoid()
            return torch.einsum("bx,bxi,xio->bxo", share, parts, self.weight)
        if self.how == "einsum":
            return torch.einsum("bxi,iox->bxo", parts, self.weight)
        return (parts[:, None] @ self.weight).relu()


class Spectrum(nn.Module):
    """A layer of complex weights, one matrix or one for each frequency."""

    def __init__(self, several: bool) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 24, 1)
        shape = (24, 5, 9) if several else (24, 5)
        self.weight = nn.Parameter(torch.randn(shape, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        found = torch.fft.rfft(self.first(x).relu())
        if self.weight.dim() == 3:
            return torch.fft.irfft(torch.einsum("bif,iof->bof", found, self.weight))
        return torch.fft.irfft((found.transpose(1, 2) @ self.weight).transpose(1, 2))


def _lost(model: nn.Module, rows: Tensor, unseen: Tensor) -> tuple[float, float]:
    """Shares of the outputs' variation that are lost with compensation, and without."""
    lost = []
    for compensate in (True, False):
        plan = graphprune.plan(
            model, 0.4, example_inputs=rows[:2], data=rows, compensate=compensate, effort="fast"
        )
        small = plan.apply()
        assert plan.report is not None and not plan.report.left
        with torch.no_grad():
            wanted, found = model(unseen), small(unseen)
        away = (wanted - wanted.mean(0)).square().sum()
        lost.append(float((found - wanted).square().sum() / away))
    return lost[0], lost[1]


def test_experts_make_up_for_what_goes_each_by_its_rows() -> None:
    pytest.importorskip("transformers.integrations.moe")
    torch.manual_seed(0)
    mix = torch.randn(2, 6)
    solved, plain = _lost(Experts().eval(), torch.randn(512, 2) @ mix, torch.randn(256, 2) @ mix)
    assert solved < 0.1 * plain


@pytest.mark.parametrize("how", ["matmul", "einsum", "shared", "biased", "gated"])
def test_matrices_side_by_side_make_up_for_what_goes(how: str) -> None:
    torch.manual_seed(0)
    mix = torch.randn(2, 6)
    model = Beside(how).eval()
    solved, plain = _lost(model, torch.randn(512, 2) @ mix, torch.randn(256, 2) @ mix)
    assert solved < 0.1 * plain


@pytest.mark.parametrize("several", [False, True])
def test_complex_weights_stay_complex(several: bool) -> None:
    """Their imaginary parts were lost: outputs were worse than without compensation."""
    torch.manual_seed(0)
    rows, unseen = torch.randn(256, 2, 16), torch.randn(64, 2, 16)
    solved, plain = _lost(Spectrum(several).eval(), rows, unseen)
    assert solved < 0.3 * plain


def test_moments_of_complex_rows_are_hermitian() -> None:
    x = torch.randn(1, 50, 3, dtype=torch.complex128)
    moments = Moments()
    moments.add(x, x)
    _, own = moments.second(central=True)
    torch.testing.assert_close(own[0], torch.cov(x[0].T, correction=0))
    torch.testing.assert_close(moments.power(central=True)[0], own[0].diagonal().real)


def test_rows_that_fill_up_tell_nothing() -> None:
    """Runs are filled up with zeros: a run of few rows is scarce."""
    rows = torch.randn(2, 40, 3)
    rows[1, 4:] = 0
    moments = Moments()
    moments.sampled(rows, None)
    moments.add(rows, rows)
    long, short = moments.scarcity().tolist()
    assert short == pytest.approx(10 * long)
