"""Inputs for models that were captured in parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune.core.errors import GraphPruneError
from graphprune.statistics.made.imitate import imitate


def test_structure_shapes_and_types_are_those_of_the_example() -> None:
    given = (([torch.rand(3, 16, 20), torch.rand(3, 24, 16)], 7), {"mask": torch.ones(2).long()})
    first, second = imitate(given, 2, 0)
    (images, number), kwargs = first.args, first.kwargs
    assert [x.shape for x in images] == [(3, 16, 20), (3, 24, 16)] and number == 7
    assert torch.equal(kwargs["mask"], torch.ones(2).long())
    assert not torch.equal(images[0], second.args[0][0])
    assert torch.equal(images[0], imitate(given, 1, 0)[0].args[0][0])


@pytest.mark.parametrize(("scale", "low", "high"), [(1.0, 0.0, 1.0), (255.0, 0.0, 255.0)])
def test_pictures_keep_to_the_range_of_the_example(scale: float, low: float, high: float) -> None:
    (batch,) = imitate(((scale * torch.rand(2, 3, 32, 32),), {}), 1, 0)
    (x,) = batch.args
    assert batch.samples == 2
    assert low <= float(x.min()) < high / 4 and high * 3 / 4 < float(x.max()) <= high


def test_normalised_pictures_and_other_numbers_have_mean_zero() -> None:
    (batch,) = imitate(((torch.randn(4, 3, 32, 32).double(), torch.randn(64, 8)), {}), 1, 0)
    for x in batch.args:
        assert abs(float(x.mean())) < 0.2 and 0.8 < float(x.std()) < 1.2
    assert [x.dtype for x in batch.args] == [torch.float64, torch.float32]


def test_tokens_are_of_those_that_the_example_may_hold_and_masks_stay() -> None:
    tokens, mask = torch.randint(5, 90, (4, 50)), torch.tensor([[True, False]] * 4)
    (batch,) = imitate(((tokens,), {"mask": mask}), 1, 0)
    (made,) = batch.args
    assert made.dtype == torch.int64 and not torch.equal(made, tokens)
    assert tokens.min() <= made.min() and made.max() <= tokens.max()
    assert batch.kwargs["mask"] is mask
    assert imitate(((mask, torch.ones(2, 3).long()), {}), 3, 0) == []


class _Branching(nn.Module):
    """Chooses its way by the data, behind batch norms that have learned."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16),
        )  # fmt: skip
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        if float(y.detach().sum()) > 1e12:
            y = -y
        out: torch.Tensor = self.head(y.mean((2, 3)))
        return out


def _learned() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, x = _Branching(), torch.rand(64, 3, 16, 16)
    for _ in range(20):
        model(x)
    return model.eval(), x


def test_compensation_needs_no_data_where_parts_were_captured() -> None:
    model, x = _learned()

    def gap(**options: Any) -> float:
        small = graphprune.shrink(model, 0.4, example_inputs=x[:2], effort="fast", **options)
        with torch.no_grad():
            return float((small(x) - model(x)).square().mean())

    plan = graphprune.plan(model, 0.4, example_inputs=x[:2], effort="fast")
    assert "what the captured parts take in" in plan.report.compensation
    assert gap() < gap(compensate=False) / 2


class _Masking(nn.Module):
    """Its parts can be captured, but a mask is all that it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, mask: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(mask.float())
        if float(y.sum()) > 1e12:
            y = -y
        out: torch.Tensor = self.head(y)
        return out


def test_the_report_says_where_no_inputs_can_be_made() -> None:
    torch.manual_seed(0)
    model, x = _Masking().eval(), torch.ones(2, 8, dtype=torch.bool)
    plan = graphprune.plan(model, 0.4, example_inputs=x)
    plan.apply()
    assert "pass data=" in plan.report.compensation
    with pytest.raises(GraphPruneError, match="pass data="):
        graphprune.plan(model, 0.4, example_inputs=x, compensate=True).apply()


class _Particular(_Branching):
    """Takes no other inputs than those that it knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert bool((x[0] == 1).all()), "not what was agreed on"
        return super().forward(x)


def test_a_model_that_refuses_made_inputs_shrinks_without_them() -> None:
    torch.manual_seed(0)
    model, x = _Particular(), torch.rand(4, 3, 16, 16)
    x[0] = 1.0
    model(x)
    plan = graphprune.plan(model.eval(), 0.4, example_inputs=x, effort="fast")
    plan.apply()
    assert "not what was agreed on" in plan.report.compensation
