"""What is the same for all chunks of samples is computed once, and held once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

import graphprune
from graphprune.core.graph import Op
from graphprune.engine.run import Run


class Scaled(nn.Module):
    """A weight that is computed from others, and noise, which is not the same twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.ones(4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand(4, 4)
        return x @ (self.weight * self.scale) + drawn


def test_computed_weights_are_shared_by_chunks() -> None:
    graph = graphprune.analyze(Scaled(), torch.randn(4, 4)).source
    calls: dict[str, int] = {}

    def counting(op: Op, *more: Any) -> list[torch.Tensor]:
        calls[op.type] = calls.get(op.type, 0) + 1
        return graph.engine.evaluate(op, *more)

    given = [{graph.inputs[0]: torch.randn(4, 4)} for _ in range(3)]
    engine = replace(graph.engine, evaluate=counting)
    run = Run(graph, lambda value: value.tensor, given, engine=engine)
    for op in run.steps():
        same = len({x.data_ptr() for x in run.values(op.outputs[0])}) == 1
        assert same == (op.type == "aten.mul"), op.type
    assert calls["aten.mul"] == 1
    assert calls["aten.matmul" if "aten.matmul" in calls else "aten.mm"] == 3
    assert calls["aten.rand"] == 3
