"""What is chosen is the nearest to the budget that there is; what it misses is told."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.choice.constants import RATIO_TOLERANCE
from graphprune.costs.registry import cost_of
from tests.choice.test_options_honoured import OPTIONS, dense


class Recurrent(nn.Module):
    """A recurrent layer of few units: a single one takes several percent."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.GRU(6, 12, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.units(x)[0])
        return found


_NETS: list[tuple[nn.Module, Any]] = [
    (dense(8, 20, 14, 4), torch.randn(2, 8)),
    (Recurrent(), torch.randn(2, 5, 6)),
]


@pytest.mark.parametrize("step", ["auto", 3, 4])
@pytest.mark.parametrize("net", range(len(_NETS)))
def test_no_other_counts_come_nearer(net: int, step: Any) -> None:
    model, x = _NETS[net]
    deps = graphprune.analyze(model, x)
    cost, sizes = cost_of(deps, "params"), deps.sizes()
    by = 1 if step == "auto" else step
    stops = [sorted({*range(by, int(size) + 1, by), int(size)}) for size in sizes]
    there_are = np.array([1 - cost(np.array(k, float)) / cost(sizes) for k in product(*stops)])
    for ratio in (0.35, 0.5, 0.65):
        plan = graphprune.plan(model, ratio, round_to=step, example_inputs=x, **OPTIONS)
        assert plan.report is not None
        missed = abs(plan.report.achieved - ratio)
        assert missed <= max(RATIO_TOLERANCE, np.abs(there_are - ratio).min() + 1e-9)
        told = [text for text in plan.report.warnings if "as near to" in text]
        assert bool(told) == (missed > RATIO_TOLERANCE)


def test_wide_layers_meet_any_step() -> None:
    """Counts of two layers are changed at once: single steps of three end 1.4 % off."""
    for ratio in (0.2, 0.3, 0.4):
        plan = graphprune.plan(
            dense(16, 64, 64, 10), ratio, round_to=3, example_inputs=torch.randn(2, 16), **OPTIONS
        )
        assert plan.report is not None
        assert abs(plan.report.achieved - ratio) <= RATIO_TOLERANCE
        assert not plan.report.warnings
