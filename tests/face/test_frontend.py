"""A frontend of one's own: one class that says what it reads and opens it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune import GraphPruneError
from graphprune.core.program import Inputs
from graphprune.frontends import opening
from graphprune.frontends.opening import Opened, open_model


class Boxed:
    """A module in a box that only our frontend can open."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module


@pytest.fixture(autouse=True)
def no_frontend_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_FRONTENDS", [])


def test_a_frontend_of_ones_own() -> None:
    @graphprune.frontend
    class Boxes:
        name = "a box"

        def reads(self, model: Any) -> bool:
            return isinstance(model, Boxed)

        def open(self, model: Any, inputs: Inputs | None, data: Any, samples: int) -> Opened:
            return open_model(model.module, inputs, data, samples)

    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    box: Any = Boxed(net)
    small = graphprune.shrink(box, 0.5, example_inputs=torch.randn(2, 8), compensate=False)
    assert small[0].out_features < 32
    with pytest.raises(GraphPruneError, match="a box is needed, not a dict"):
        graphprune.shrink({}, 0.5)


def test_a_frontend_that_lacks_a_part_is_refused() -> None:
    with pytest.raises(GraphPruneError, match="frontend Half lacks 'open'"):

        @graphprune.frontend  # type: ignore[type-var]
        class Half:
            name = "half"

            def reads(self, model: Any) -> bool:
                return False
