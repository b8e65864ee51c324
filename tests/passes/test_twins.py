"""twins: channels that are multiples of others are read as those others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from onnx import numpy_helper
from torch import nn

import graphprune
from graphprune.core.rewrites import Draft
from graphprune.frontends.opening import open_model
from graphprune.passes.twins import MergeTwins
from graphprune.pipeline import Asked, Work
from tests.passes.test_compact import IMAGE, ROWS, check, conv, exported


class Doubled(nn.Module):
    """A convolution, a depthwise one and one behind them, each with an output that is another's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.depth = conv(3, 8, bias=True), conv(8, 8, groups=8)
        self.point, self.head = conv(8, 6, bias=True), nn.Linear(6, 5)
        with torch.no_grad():
            for held in (self.stem.weight, self.stem.bias):
                held[5] = 4 * held[1]
            self.depth.weight[5] = 0.5 * self.depth.weight[1]
            for held in (self.point.weight, self.point.bias):
                held[4] = -2 * held[2]  # nothing but linear operations read it

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.depth(torch.relu(self.stem(x))))
        return self.head(self.point(x).mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_multiples_are_read_as_what_they_are_multiples_of(dtype: torch.dtype) -> None:
    small, report = check(Doubled().to(dtype).eval(), IMAGE.to(dtype))
    assert small.stem.out_channels == small.depth.groups == 7
    assert small.point.out_channels == 5
    assert [row.reasons for row in report.groups] == [{"unread": 1}, {"unread": 1}]


def test_files_too() -> None:
    small = graphprune.compact(exported(Doubled().eval(), IMAGE))
    held = {t.name: numpy_helper.to_array(t).shape for t in small.graph.initializer}
    assert held["stem.weight"][0] == 7 and held["point.weight"][:2] == (5, 7)


@pytest.mark.parametrize(
    ("act", "factor", "width"),
    [(nn.ReLU, 3.0, 7), (nn.ReLU, -3.0, 8), (nn.SiLU, 3.0, 8), (nn.SiLU, 1.0, 7)],
)
def test_an_activation_lets_some_factors_through(act: Any, factor: float, width: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), act(), nn.Linear(8, 4)).eval()
    with torch.no_grad():
        net[0].weight[6] = factor * net[0].weight[2]
        net[0].bias[6] = factor * net[0].bias[2]
    small, _ = check(net, ROWS)
    assert small[0].out_features == width


def test_what_was_found_is_found_again_on_a_draft_that_is_made_anew() -> None:
    """A rewrite that cannot be made takes the draft back; the others are then looked for again."""
    with torch.no_grad():
        net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
        net[0].weight[6], net[0].bias[6] = 2 * net[0].weight[2], 2 * net[0].bias[2]
    work = Work(open_model(net, ((ROWS,), {})).program, Asked())
    graph = work.program.graph
    MergeTwins().run(work)
    pending: Any = work.pending
    (find,) = pending.finds
    for _ in range(2):
        draft = Draft(graph)
        found = [find(draft, op) for op in draft.ops]
        (one,) = [rewrite for rewrite in found if rewrite is not None]
        draft.make(one)
        assert not any(find(draft, op) for op in draft.ops)
