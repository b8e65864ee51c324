"""What was assumed of the inputs stands first in the report."""

from __future__ import annotations

import torch
from torch import nn

import graphprune


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def test_inputs_that_were_found_are_told_first() -> None:
    report = graphprune.plan(_net(), 0.5, compensate=False).report
    assert report.assumed == "2 x 8 float32"
    assert str(report).splitlines()[0] == "inputs assumed, as none were given: 2 x 8 float32"


def test_inputs_that_were_given_are_not() -> None:
    x = torch.randn(2, 8)
    for given in ({"example_inputs": x}, {"data": [x, x]}):
        report = graphprune.plan(_net(), 0.5, compensate=False, **given).report
        assert report.assumed == ""
        assert "assumed" not in str(report)
