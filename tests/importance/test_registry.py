"""Criteria of one's own: by name, and what is said of those that are wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune import GraphPruneError
from graphprune.importance import CRITERIA, Context


@pytest.fixture(autouse=True)
def _kept() -> Iterator[None]:
    """The criteria are as they were after each test."""
    known = dict(CRITERIA)
    yield
    CRITERIA.clear()
    CRITERIA.update(known)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


def shrunk(importance: Any) -> nn.Module:
    return graphprune.shrink(net(), 0.5, importance=importance, compensate=False)


def largest(weight: torch.Tensor, dim: int) -> torch.Tensor:
    return weight.detach().movedim(dim, 0).reshape(weight.shape[dim], -1).abs().amax(1)


def test_a_criterion_has_a_name() -> None:
    graphprune.criterion("largest")(largest)
    named, given = shrunk("largest"), shrunk(largest)
    assert torch.equal(named[0].weight, given[0].weight)


def test_one_of_the_whole_context_has_a_name() -> None:
    @graphprune.criterion("first")
    def first(context: Context) -> list[list[Any]]:
        return [[range(group.size, 0, -1)] for group in context.deps.groups]

    kept = shrunk("first")
    assert torch.equal(kept[0].weight, net()[0].weight[: kept[0].out_features])


@pytest.mark.parametrize("name", ["l2", "auto", "obs"])
def test_a_name_is_taken_once(name: str) -> None:
    with pytest.raises(GraphPruneError, match=f"importance criterion '{name}' already"):
        graphprune.criterion(name)(largest)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (lambda w, d: largest(w, d)[:-1], r"must give \d+ finite scores .* it gave shape"),
        (lambda w, d: largest(w, d) * float("nan"), "are infinite or not a number"),
        (lambda w, d: "many", "it gave str"),
        (lambda w, d: w.flatten(1).sum(1), "fails on a weight of shape .* along dimension"),
        (lambda a, b, c: a, r"takes 3 arguments: it must take \(weight, dim\)"),
        (lambda context: [], "contributions for each of the 1 groups; it gave 0"),
        (lambda context: [[[1.0]]], r"must give 32 finite scores .* it gave shape \(1,\)"),
    ],
)
def test_a_wrong_criterion_is_named(own: Any, said: str) -> None:
    own.__name__ = "mine"
    with pytest.raises(GraphPruneError, match=rf"importance criterion 'mine' .*{said}"):
        shrunk(own)
