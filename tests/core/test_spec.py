"""The specification of a lifted graph, tried on graphs that break it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from graphprune.core.errors import LiftError
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.spec import check_spec
from graphprune.frontends.opening import open_model


def _graph(**changed: Any) -> Graph:
    x, w = Value("x", (2, 3), "float32", "input"), Value("w", (4, 3), "float32", "parameter")
    y = Value("y", (2, 4), "float32")
    w.tensor = torch.zeros(4, 3)
    op = Op("linear", "aten.linear", [x, w, None], [y])
    parts: dict[str, Any] = {"ops": [op], "inputs": [x], "outputs": [y], "weights": {"w": w}}
    return Graph(**{**parts, "engine": None, **changed})


def test_lifted_graphs_are_well_formed() -> None:
    check_spec(_graph())
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
    check_spec(open_model(net, ((torch.randn(2, 3, 5, 5),), {})).program.graph)


def test_an_operand_that_nothing_has_made() -> None:
    ghost = Value("ghost", (2,), "float32")
    made = Value("z", (2,), "float32")
    with pytest.raises(LiftError, match=r"relu \(aten.relu\) reads ghost"):
        check_spec(_graph(ops=[Op("relu", "aten.relu", [ghost], [made])], outputs=[]))
    with pytest.raises(LiftError, match="the graph returns ghost"):
        check_spec(_graph(outputs=[ghost]))


def test_two_values_of_one_name() -> None:
    with pytest.raises(LiftError, match="two values called w"):
        check_spec(_graph(inputs=[Value("w", (2, 3), "float32", "input")], ops=[], outputs=[]))


def test_shapes_are_whole_numbers() -> None:
    odd: Any = (2, 3.0)
    with pytest.raises(LiftError, match="whole numbers are needed"):
        check_spec(_graph(inputs=[Value("x", odd, "float32", "input")], ops=[], outputs=[]))


def test_weights_have_the_shape_that_they_are_said_to_have() -> None:
    w = Value("w", (4, 3), "float32", "parameter", tensor=torch.zeros(3, 4))
    with pytest.raises(LiftError, match=r"weight w has shape \(3, 4\), not \(4, 3\)"):
        check_spec(_graph(weights={"w": w}, ops=[], outputs=[]))
