"""Shifts and constants go into biases only where they reach every place alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune.engine.linear import border
from graphprune.frontends.onnx.whole import run_model
from graphprune.rules.readings import Reading, reading
from tests.passes.test_compact import exported

ROW = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))


def trained(width: int) -> nn.BatchNorm1d:
    """A batch norm that looks trained."""
    norm = nn.BatchNorm1d(width)
    with torch.no_grad():
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
        norm.weight.uniform_(0.5, 1.5)
    return norm


@pytest.mark.parametrize(
    ("layer", "even"),
    [
        (lambda: nn.Conv1d(8, 4, 3), True),
        (lambda: nn.Conv1d(8, 4, 3, groups=2), True),
        (lambda: nn.Conv1d(8, 4, 3, padding=1, padding_mode="zeros"), False),
        (lambda: nn.ConvTranspose1d(8, 4, 5, stride=5), False),
        (lambda: nn.ConvTranspose1d(8, 4, 2, stride=2, groups=2), False),
        (lambda: nn.ConvTranspose1d(8, 4, 3), False),
        (lambda: nn.ConvTranspose1d(8, 4, 3, padding=2), True),
        (lambda: nn.ConvTranspose1d(8, 4, 1), True),
    ],
)
def test_whether_all_places_are_sums_over_all_taps(layer: Callable[[], Any], even: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(3, 8, 1), nn.ReLU(), layer()).eval()
    graph = graphprune.analyze(model, example_inputs=(ROW,)).source
    op = next(op for op in reversed(graph.ops) if isinstance(reading(op), Reading))
    read = reading(op)
    assert isinstance(read, Reading)
    assert (not border(op, read, graph.engine)) == even


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("taps", [1, 2, 5])
@pytest.mark.parametrize("file", [False, True])
def test_shifts_and_constants_in_front_of_a_transposed_convolution(
    taps: int, verify: bool, file: bool
) -> None:
    torch.manual_seed(0)
    first = nn.Conv1d(3, 8, 3, padding=1)
    with torch.no_grad():
        first.weight[2:4] = 0.0
        first.bias[2:4] = 1.5  # two channels of one number
    layers = [first, nn.ReLU(), trained(8), nn.ReLU(), trained(8)]
    model = nn.Sequential(*layers, nn.ConvTranspose1d(8, 4, taps, stride=taps)).eval()
    with torch.no_grad():
        expected = model(ROW)
    if file:
        small = graphprune.compact(exported(model, ROW), verify=verify)
        (found,) = run_model(small, {small.graph.input[0].name: ROW.numpy()})
        found = torch.as_tensor(found)
    else:
        found = graphprune.compact(model, example_inputs=(ROW,), verify=verify)(ROW).detach()
    assert float((found - expected).abs().max()) < 1e-5
