"""The captured graph shows the values that the module computes, for batches of any size."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprune
from graphprune import GraphPruneError
from graphprune.statistics.batches import read_batches
from graphprune.statistics.observe import observe
from tests import blocks

CASES = {
    "residual": (blocks.Residual, (3, 16, 16)),
    "attention": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (5, 16)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("samples", [1, 2, 7])
def test_outputs_are_those_of_the_module(name: str, samples: int) -> None:
    build, shape = CASES[name]
    torch.manual_seed(0)
    model = build().eval()
    deps = graphprune.analyze(model, torch.randn(2, *shape))
    x = torch.randn(samples, *shape)
    seen = []
    output = deps.source.outputs[0]
    batches = read_batches([x], model)
    assert list(observe(deps, batches, {output}, lambda v, t: seen.append(t))) == batches
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(seen), model(x), atol=1e-5, rtol=1e-5)


class FixedBatch(nn.Module):
    """Bakes the batch size into a constant that the analysis cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.a(x)
        return self.b(h + torch.ones(x.shape[0], 1))


def test_where_the_batch_size_is_fixed_the_data_runs_in_parts_of_it() -> None:
    model = FixedBatch().eval()
    deps = graphprune.analyze(model, torch.randn(3, 4))
    x = torch.randn(7, 4)
    seen = []
    for _ in observe(
        deps, read_batches([x], model), {deps.source.outputs[0]}, lambda v, t: seen.append(t)
    ):
        pass
    found = torch.cat(seen)
    torch.testing.assert_close(found, model(x)[: len(found)])
    assert len(found) >= 6


def test_data_of_other_shapes_is_refused() -> None:
    model = blocks.Residual().eval()
    deps = graphprune.analyze(model, torch.randn(2, 3, 16, 16))
    with pytest.raises(GraphPruneError, match="was captured with"):
        list(observe(deps, read_batches(torch.randn(4, 3, 8, 8), model), (), lambda v, t: None))
