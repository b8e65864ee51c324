"""Every block, exported: what holds for the module holds for its ONNX model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import graphprune
from graphprune.core.groups import Dependencies
from tests.blocks import BLOCKS
from tests.frontends.onnx.exports import export, run

UNTRACEABLE = {"spectral norm", "fourier"}  # the tracing exporter lacks its operations
# An LSTM layer is a node: without the states as one result, layers do not share their widths.
# Auxiliary heads that only training mode reaches are not in the file.
FINER = {"recurrent", "auxiliary head"}


def _block(name: str) -> tuple[torch.nn.Module, Any]:
    """A block whose layers all have weights of their own: exporters merge equal ones."""
    torch.manual_seed(0)
    build, example = BLOCKS[name]
    module = build().eval()
    for parameter in module.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    return module, example()


@pytest.fixture(params=sorted(BLOCKS.keys() - UNTRACEABLE), scope="module")
def block(request: pytest.FixtureRequest) -> tuple[str, torch.nn.Module, Any, onnx.ModelProto]:
    module, inputs = _block(request.param)
    # Weights that are computed ahead, such as a transposed embedding, would not be tied any more.
    model = export(module, inputs, do_constant_folding=False)
    return request.param, module, inputs, model


def _groups(deps: Dependencies) -> Counter[int]:
    return Counter(group.size for group in deps.groups)


def test_removal_equals_masking_in_onnx_runtime(block: Any) -> None:
    _, _, inputs, model = block
    before = model.SerializeToString()
    plan = graphprune.plan(model, 0.4, compensate=False)
    small = plan.apply()
    assert model.SerializeToString() == before
    assert plan.report is not None and plan.report.verification is not None
    assert plan.report.verification.difference < 1e-4
    assert plan.report.verification.lowered < 1e-4
    onnx.checker.check_model(small, full_check=True)
    feeds = {i.name: x.numpy() for i, x in zip(model.graph.input, inputs, strict=True)}
    shapes = [[array.shape for array in run(m, **feeds)] for m in (model, small)]
    assert shapes[0] == shapes[1]
    kept = sum(int(np.prod(t.dims)) for t in small.graph.initializer)
    assert kept < sum(int(np.prod(t.dims)) for t in model.graph.initializer)


def test_the_groups_are_those_of_the_module(block: Any) -> None:
    name, module, inputs, model = block
    found, expected = (
        _groups(graphprune.analyze(model)),
        _groups(graphprune.analyze(module, inputs)),
    )
    assert (found >= expected) if name in FINER else (found == expected)


@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_both_exporters(name: str) -> None:
    module, inputs = _block(name)
    model = export(module, inputs, dynamo=True)
    assert _groups(graphprune.analyze(model)) == _groups(graphprune.analyze(module, inputs))
    assert graphprune.shrink(model, 0.4, compensate=False).ByteSize() < model.ByteSize()
