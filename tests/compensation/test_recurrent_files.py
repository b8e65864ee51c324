"""Recurrent layers of files, whose weights hold the directions in front, are solved for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import nn

import graphprune
from graphprune.frontends.onnx.stored import cut_array
from tests.frontends.onnx.exports import Array, export, run


class _Steps(nn.Module):
    def __init__(self, kind: str, both: bool) -> None:
        super().__init__()
        self.first = nn.Linear(6, 24)
        self.layer = getattr(nn, kind)(24, 16, batch_first=True, bidirectional=both)
        self.head = nn.Linear(32 if both else 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps, _ = self.layer(torch.relu(self.first(x)))
        out: torch.Tensor = self.head(steps)
        return out


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("both", [False, True])
def test_states_and_inputs_make_up_for_what_goes(kind: str, both: bool) -> None:
    torch.manual_seed(0)
    module = _Steps(kind, both)
    mix = torch.randn(3, 6)
    data, unseen = torch.randn(64, 10, 3) @ mix, (torch.randn(64, 10, 3) @ mix).numpy()
    axes = {"x": {0: "n", 1: "t"}}
    model = export(module, (data[:2],), input_names=["x"], dynamic_axes=axes)
    plan = graphprune.plan(model, 0.5, data=data, effort="fast", seed=0)
    small = plan.apply()
    assert plan.report is not None and not plan.report.left
    wanted, found = (run(m, x=unseen)[0] for m in (model, small))
    lost = np.square(found - wanted).sum() / np.square(wanted - wanted.mean((0, 1))).sum()
    assert lost < 0.07  # 0.02 to 0.05; 0.03 to 0.11 where the head alone is solved for


def test_each_direction_reads_states_of_its_own() -> None:
    """The weights by which it reads them are solved for, each by what it reads."""
    torch.manual_seed(0)
    module = _Steps("LSTM", both=True)
    data = torch.randn(64, 10, 3) @ torch.randn(3, 6)
    axes = {"x": {0: "n", 1: "t"}}
    model = export(module, (data[:2],), input_names=["x"], dynamic_axes=axes)
    plan = graphprune.plan(model, 0.5, data=data, effort="fast", seed=0)
    (name, weight), (_, small) = (_of_states(m) for m in (model, plan.apply()))
    cut = cut_array(weight, plan.kept[name])
    assert cut.shape == small.shape and cut.shape != weight.shape
    for direction in range(2):
        assert np.abs(cut[direction] - small[direction]).max() > 0.01


def _of_states(model: ModelProto) -> tuple[str, Array]:
    """The weight by which an LSTM reads its states, and its name."""
    (name,) = (node.input[2] for node in model.graph.node if node.op_type == "LSTM")
    (held,) = (t for t in model.graph.initializer if t.name == name)
    return name, numpy_helper.to_array(held)
