"""Peak activation memory in closed form against storages counted while the graph runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.costs.memory import PeakMemory
from graphprune.frontends.torch.execute import evaluate
from tests import blocks

CASES = {
    "residual": (blocks.Residual, torch.randn(2, 3, 16, 16)),
    "dense": (blocks.Dense, torch.randn(2, 3, 16, 16)),
    "encoder": (
        lambda: nn.TransformerEncoderLayer(16, 2, 64, batch_first=True),
        torch.randn(2, 5, 16),
    ),
}


def counted(model: nn.Module, x: torch.Tensor) -> float:
    """The most bytes of storages that are alive during any operation."""
    deps = graphprune.analyze(model, x)
    graph = deps.source
    last = {}
    for number, op in enumerate(graph.ops):
        last.update({v: number for v in (*op.inputs, *op.outputs) if v is not None})
    last.update({v: len(graph.ops) for v in graph.outputs})
    values = dict(zip(graph.inputs, [x.clone()], strict=True))
    most = 0
    for number, op in enumerate(graph.ops):
        operands = [
            None if v is None else v.tensor if v.is_weight else values[v] for v in op.inputs
        ]
        values.update(zip(op.outputs, evaluate(op, operands, {}), strict=True))
        weights = {v.tensor.untyped_storage().data_ptr() for v in graph.weights.values()}
        alive = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in values.values()
        }
        most = max(most, sum(size for at, size in alive.items() if at not in weights))
        values = {v: t for v, t in values.items() if last[v] > number}
    return most


@pytest.mark.parametrize("name", CASES)
def test_the_closed_form_counts_what_is_alive(name: str) -> None:
    build, x = CASES[name]
    torch.manual_seed(0)
    model = build().eval()
    deps = graphprune.analyze(model, x)
    full = np.array([group.size for group in deps.groups], dtype=np.float64)
    assert PeakMemory(deps)(full) == counted(model, x)


def test_a_plan_for_memory_reduces_what_is_alive() -> None:
    torch.manual_seed(0)
    model = blocks.Residual().eval()
    x = torch.randn(2, 3, 16, 16)
    plan = graphprune.plan(model, 0.4, "memory", example_inputs=x)
    before, after = plan.report.memory
    assert before == counted(model, x)
    assert after == counted(plan.apply(), x)
    assert after / before == pytest.approx(0.6, abs=0.02)
    assert "peak activations, bytes" in str(plan.report)
