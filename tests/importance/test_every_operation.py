"""Every criterion over every linear operation: none is forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import helper
from torch import nn

import graphprune
from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError
from graphprune.core.groups import Dependencies
from graphprune.frontends.opening import open_model
from graphprune.importance import CRITERIA, Context
from graphprune.importance.score import score
from graphprune.importance.weights import _scales
from graphprune.passes.couple import couple
from tests.frontends.onnx.exports import graph, normal
from tests.own_operation import Own, rules
from tests.rules.test_facts import Held


class States(nn.Module):
    """A recurrent layer or cell with states of six units, and what reads them."""

    def __init__(self, layer: nn.Module, width: int = 6) -> None:
        super().__init__()
        self.layer, self.last = layer, nn.Linear(width, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: Any
        if isinstance(self.layer, nn.RNNCellBase):  # states of a step before, which are not zero
            state = x[..., :6].tanh()
            pair = (state, state) if isinstance(self.layer, nn.LSTMCell) else state
            found = self.layer(x, pair)
        else:
            found = self.layer(x)
        states = found[0] if isinstance(found, tuple) else found
        result: torch.Tensor = self.last(states)
        return result


# What reads eight channels and makes others, and the shape of what is in front of them.
OPERATIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(8, 6), (2,)),
    "linear of one result": (lambda: Held(F.linear, (8,)), (2,)),
    "matmul": (lambda: Held(torch.matmul, (8, 6)), (2, 3)),
    "matmul, weight ahead": (lambda: Held(lambda x, w: (w @ x.mT).mT, (6, 8)), (2, 3)),
    "mm": (lambda: Held(torch.mm, (8, 6)), (2,)),
    "addmm": (lambda: Held(lambda x, w, b: torch.addmm(b, x, w), (8, 6), (6,)), (2,)),
    "bmm": (
        lambda: Held(lambda x, w: torch.bmm(x.transpose(0, 1), w).transpose(0, 1), (3, 8, 6)),
        (2, 3),
    ),
    "einsum": (lambda: Held(lambda x, w: torch.einsum("bsi,oi->bso", x, w), (6, 8)), (2, 3)),
    "einsum over two": (
        lambda: Held(lambda x, w: torch.einsum("bsi,sio->bo", x, w), (3, 8, 6)),
        (2, 3),
    ),
    "tensordot": (lambda: Held(lambda x, w: torch.tensordot(x, w, 1), (8, 6)), (2, 3)),
    "bilinear": (lambda: Held(lambda x, w: F.bilinear(x, x, w), (6, 8, 8)), (2,)),
    "lstm": (lambda: States(nn.LSTM(8, 6, batch_first=True)), (2, 3)),
    "lstm of two layers": (
        lambda: States(nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True), 12),
        (2, 3),
    ),
    "gru": (lambda: States(nn.GRU(8, 6, batch_first=True)), (2, 3)),
    "rnn": (lambda: States(nn.RNN(8, 6, batch_first=True)), (2, 3)),
    "gru cell": (lambda: States(nn.GRUCell(8, 6)), (2,)),
    "lstm cell": (lambda: States(nn.LSTMCell(8, 6)), (2,)),
    "of one's own": (lambda: Own(8, 6), (2,)),
}
WINDOWS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(8, 6, 3),
    "grouped": lambda: nn.Conv2d(8, 6, 3, groups=2),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 5, 1)),
    "transposed": lambda: nn.ConvTranspose2d(8, 6, 3),
    "transposed in groups": lambda: nn.ConvTranspose2d(8, 6, 3, groups=2),
}


# Operators of ONNX files, with attributes: the first makes eight channels, the second reads them.
FILES: dict[str, tuple[str, dict[str, int], tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "Gemm": ("Gemm", {}, (2, 4), (4, 8), (8, 6)),
    "Gemm, transposed": ("Gemm", {"transB": 1}, (2, 4), (8, 4), (6, 8)),
    "MatMul": ("MatMul", {}, (2, 3, 4), (4, 8), (8, 6)),
    "Conv": ("Conv", {}, (2, 3, 5, 7), (8, 3, 1, 1), (6, 8, 3, 3)),
    "Conv in groups": ("Conv", {"group": 2}, (2, 4, 5, 7), (8, 2, 1, 1), (6, 4, 3, 3)),
    "ConvTranspose": ("ConvTranspose", {}, (2, 3, 5, 7), (3, 8, 1, 1), (8, 6, 3, 3)),
}


@pytest.fixture(autouse=True)
def own_rules() -> Iterator[None]:
    with rules():
        yield


class Before(nn.Module):
    """A layer that makes the channels, and one that reads them."""

    def __init__(self, first: nn.Module, reader: nn.Module) -> None:
        super().__init__()
        self.first, self.reader = first, reader

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.reader(self.first(x).sigmoid())
        return found


def analysed(name: str) -> tuple[nn.Module, torch.Tensor, Dependencies]:
    torch.manual_seed(0)
    if name in WINDOWS:
        model, x = Before(nn.Conv2d(3, 8, 1), WINDOWS[name]()), torch.rand(2, 3, 5, 7)
    else:
        build, lead = OPERATIONS[name]
        model, x = Before(nn.Linear(4, 8), build()), torch.rand(*lead, 4)
    return model, x, graphprune.analyze(model, x)


def loss(output: torch.Tensor, labels: object) -> torch.Tensor:
    return output.square().sum()


def scored(
    importance: str, model: nn.Module, x: torch.Tensor, deps: Dependencies
) -> list[np.ndarray[Any, Any]]:
    batches = [Batch((x,), {}, None, len(x))]
    return score(deps, importance, Context(deps, model, ((x,), {}), batches, loss))


@pytest.mark.parametrize("name", [*OPERATIONS, *WINDOWS])
def test_no_criterion_scores_a_group_zero(name: str) -> None:
    model, x, deps = analysed(name)
    assert deps.groups
    for importance in CRITERIA:
        if importance == "bn_scale" and not _scales(deps):
            continue
        for group, scores in zip(deps.groups, scored(importance, model, x, deps), strict=True):
            assert scores.any(), f"{importance} forgets {group.name}"


@pytest.mark.parametrize("name", FILES)
def test_no_criterion_scores_a_group_of_a_file_zero(name: str) -> None:
    kind, attrs, shape, first, second = FILES[name]
    nodes = [
        helper.make_node(kind, ["x", "a"], ["h"], **attrs),
        helper.make_node("Sigmoid", ["h"], ["k"]),
        helper.make_node(kind, ["k", "b"], ["y"], **attrs),
    ]
    weights = {"a": normal(*first), "b": normal(*second)}
    model = graph(nodes, weights, {"x": shape}, {"y": [None] * len(shape)})
    opened = open_model(model, None, normal(*shape), 2)
    deps = couple(opened.program.graph)
    assert deps.groups
    tried = 0
    for importance in CRITERIA:
        if importance == "bn_scale":
            continue  # there is no norm
        try:
            found = score(deps, importance, Context(deps, batches=opened.batches, loss=loss))
        except GraphPruneError as error:
            assert "needs a torch.nn.Module to run" in str(error)
            continue
        tried += 1
        for group, scores in zip(deps.groups, found, strict=True):
            assert scores.any(), f"{importance} forgets {group.name}"
    assert tried > 8


@pytest.mark.parametrize("name", [*OPERATIONS, *WINDOWS])
def test_wanda_looks_at_every_weight_that_multiplies(name: str) -> None:
    model, x, deps = analysed(name)
    before = scored("wanda", model, x, deps)
    for weight in model.reader.parameters():
        if weight.dim() < 2 and name != "linear of one result":
            continue
        held = weight.detach().clone()
        weight.data.mul_(3)
        after = scored("wanda", model, x, deps)
        assert any((a > 1.01 * b).any() for a, b in zip(after, before, strict=True))
        weight.data.copy_(held)
