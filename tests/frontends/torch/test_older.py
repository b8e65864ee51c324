"""What PyTorch gets wrong during a capture."""

from __future__ import annotations

import torch

import graphprune
from tests.blocks import PaddedShortcut, images


def test_data_is_read_as_detach() -> None:
    torch.manual_seed(0)
    model, inputs = PaddedShortcut(cut=True).eval(), images()
    deps = [graphprune.analyze(m, inputs) for m in (model, PaddedShortcut().eval())]
    assert [g.size for g in deps[0].groups] == [g.size for g in deps[1].groups]
    small = graphprune.shrink(model, 0.5, example_inputs=inputs, compensate=False)
    assert type(small) is PaddedShortcut and small.stem.out_channels < 16
