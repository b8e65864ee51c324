"""What the parts of a model take while the whole runs on data."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import graphprune
from tests.frontends.torch.test_parts import Gated, mlp


def test_what_parts_take_is_recorded_for_compensation_and_criteria() -> None:
    torch.manual_seed(0)
    model, x = Gated().eval(), torch.randn(4, 8)
    data = torch.randn(256, 8) * torch.linspace(0.1, 2, 8)
    test = torch.randn(64, 8) * torch.linspace(0.1, 2, 8)

    def gap(**options: Any) -> float:
        small = graphprune.shrink(model, 0.4, example_inputs=x, effort="fast", **options)
        with torch.no_grad():
            return float((small(test)["scores"] - model(test)["scores"]).square().mean())

    plain = gap(data=data, importance="l2", compensate=False)
    assert gap(data=data) < plain / 4
    assert gap(data=data, importance="activation", compensate=False) != plain
    assert gap(data=data, importance="wanda", compensate=False) != plain


class _Counting(nn.Module):
    """Looks at as many rows as the data says."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = mlp(), mlp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        chosen = y[: 1 + int((x[:, 0] > 0).sum())]
        return self.second(chosen).sum(0) + self.second(2 + y.flip(0)).sum(0)


def test_rows_that_depend_on_data_are_left_out_or_serve_twice() -> None:
    torch.manual_seed(0)
    model, x = _Counting().eval(), torch.tensor([[1.0] * 8] * 2 + [[-1.0] * 8] * 2)
    batches = [torch.randn(4, 8) for _ in range(64)]
    plan = graphprune.plan(model, 0.4, example_inputs=x, data=batches, effort="fast")
    small = plan.apply()
    assert "from data" in plan.report.compensation
    plain = graphprune.shrink(model, 0.4, example_inputs=x, importance="l2", compensate=False)
    with torch.no_grad():
        gaps = [
            sum(float((net(batch) - model(batch)).square().mean()) for batch in batches)
            for net in (small, plain)
        ]
    assert gaps[0] < gaps[1] / 2


class _Selecting(_Counting):
    """Looks at no row at all where the data says so."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.second(y[x[:, 0] > 0]).sum(0)


def test_passes_with_no_rows_are_left_out() -> None:
    torch.manual_seed(0)
    model, x = _Selecting().eval(), torch.ones(4, 8)
    batches = [torch.ones(4, 8), -torch.ones(4, 8), torch.ones(4, 8)]
    plan = graphprune.plan(model, 0.4, example_inputs=x, data=batches, effort="fast")
    plan.apply()
    assert "2 inputs from data" in plan.report.compensation
