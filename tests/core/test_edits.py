"""Edits: what a plan changes, as data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.core.edits import counted, cut_by, edit_of
from graphprune.core.errors import PlanError
from graphprune.core.groups import Dependencies
from graphprune.core.keep import Keep


@pytest.fixture(scope="module")
def deps() -> Dependencies:
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    return graphprune.analyze(net, torch.randn(2, 8))


def test_an_edit_cuts_its_group_and_counts(deps: Dependencies) -> None:
    edit = Keep.of(deps.groups[0], np.array([5, 1, 3]))
    assert [list(kept) for kept in cut_by([edit], deps).values()] == [[1, 3, 5]]
    assert list(counted([edit], deps)) == [3, 16]


def test_an_edit_that_keeps_all_cuts_nothing(deps: Dependencies) -> None:
    assert cut_by([Keep.of(g, None) for g in deps.groups], deps) == {}
    assert cut_by([Keep.of(deps.groups[0], np.arange(32))], deps) == {}


def test_edits_travel_as_plain_data(deps: Dependencies) -> None:
    edit = Keep.of(deps.groups[1], np.array([0, 15]))
    again = edit_of(edit.as_dict())
    assert isinstance(again, Keep)
    assert again.as_dict() == edit.as_dict()
    assert again.find(deps) is deps.groups[1]


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ([40], r"0\.weight\[0\]: keep holds 40: indices run from 0 to 31"),
        ([-1, 2], "holds -1: indices run from 0 to 31"),
        ([], "is empty"),
        ([0, 0, 1], "holds 0 more than once"),
        ([0.7, 3.2], "indices are whole numbers"),
        (["a"], "indices are whole numbers"),
        ([[1], [2]], "is empty|whole numbers|list of indices"),
    ],
)
def test_indices_that_cannot_be_name_the_group_and_the_range(
    deps: Dependencies, keep: list[Any], says: str
) -> None:
    with pytest.raises(PlanError, match=says):
        cut_by([Keep.of(deps.groups[0], np.asarray(keep))], deps)


def test_an_edit_of_another_model_names_both(deps: Dependencies) -> None:
    with pytest.raises(PlanError, match=r"its group 1 is 9\.weight\[0\] of 16 indices"):
        Keep("9.weight[0]", 16, np.array([1]), 1).check(deps)
    with pytest.raises(PlanError, match="no such group"):
        Keep("x", 4, np.array([1]), 7).check(deps)


@pytest.mark.parametrize(
    "data",
    [{"kind": "melt"}, {"kind": "keep"}, {"name": "a", "size": 3, "keep": "all"}, {"name": "a"}],
)
def test_what_is_no_edit_is_an_error(data: dict[str, Any]) -> None:
    with pytest.raises(PlanError):
        edit_of(data)


def test_groups_that_start_with_the_same_dimension_are_told_apart() -> None:
    net = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    x = torch.randn(2, 5, 16)
    names = [g.name for g in graphprune.analyze(net, (x, x, x)).groups]
    assert len(set(names)) == len(names) > 1
