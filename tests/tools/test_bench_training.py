"""The benchmark of training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tools"))

from accuracy.chain import HEAD, Chain, line, with_wide
from accuracy.peers import Beyond, to_budget
from accuracy.tasks import digits


def test_a_row_holds_means_and_the_points_lost_in_each_training() -> None:
    stages = ("original", "shrink", "recover", "int8")
    runs = [
        Chain(kind, 10.0, 3.0, 2.0, 4.0, dict(zip(stages, scores, strict=True)))
        for kind, scores in (
            ("static", (90.0, 80.0, 89.0, 89.5)),
            ("dynamic", (92.0, 84.0, 91.0, 91.0)),
        )
    ]
    row = line("ResNet", 10.0, runs)
    assert row.count("|") == HEAD.splitlines()[0].count("|")
    wanted = [
        "ResNet",
        "10",
        "dynamic / static",
        "10.0",
        "3.0",
        "2.0",
        "4.0",
        "91.0",
        "82.0",
        "90.0",
        "90.2",
    ]
    assert [cell.strip() for cell in row.split("|")[1:-2]] == wanted
    assert row.endswith("| 0.8 (0.5, 1.0) |")


def test_a_tool_that_does_not_get_down_to_the_budget_gives_no_network() -> None:
    whole = nn.Linear(4, 10, bias=False)

    def pruned(fraction: float) -> nn.Module:  # nothing at all goes where all should
        return nn.Linear(4, 10 if fraction > 0.9 else 10 - int(5 * fraction), bias=False)

    with pytest.raises(Beyond, match="at most 40%"):
        to_budget(whole, pruned, 0.8)
    with pytest.raises(Beyond, match="at most 64% of the macs"):
        to_budget(whole, pruned, 0.8, lambda net: float(len(net.weight) ** 2), "macs")
    found = to_budget(whole, pruned, 0.3)
    assert found.weight.shape == (7, 4)


def test_a_wide_mobilenet_is_among_the_networks() -> None:
    task = with_wide(digits(0))
    nets = [task.nets[name]().eval() for name in ("MobileNet", "MobileNet-wide")]
    small, wide = (sum(p.numel() for p in net.parameters()) for net in nets)
    assert wide > 3 * small
    with torch.no_grad():
        assert nets[1](task.inputs[:2]).shape == (2, 10)
