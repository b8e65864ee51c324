"""Every criterion on blocks of every kind: finite scores, no loss of the invariant."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

import graphprune
from graphprune.core.batch import Batch
from graphprune.importance import CRITERIA, Context
from graphprune.importance.score import score
from graphprune.importance.weights import _scales
from tests import blocks

NAMES = [
    "residual",
    "dense",
    "shuffle",
    "squeeze-excite",
    "attention",
    "llama",
    "recurrent",
    "grouped",
]


def loss(output: object, labels: object) -> torch.Tensor:
    return sum(x.square().mean() for x in pytree.tree_leaves(output) if x.is_floating_point())


@pytest.mark.parametrize("name", NAMES)
def test_every_criterion_scores_every_group(name: str) -> None:
    torch.manual_seed(0)
    build, inputs = blocks.BLOCKS[name]
    model, x = build(), inputs()
    deps = graphprune.analyze(model, x)
    args = x if isinstance(x, tuple) else (x,)
    batches = [Batch(args, {}, None, 2)] * 2
    for importance in CRITERIA:
        if importance == "bn_scale" and not _scales(deps):
            continue
        context = Context(deps, model, (args, {}), batches, loss)
        found = score(deps, importance, context)
        assert [len(scores) for scores in found] == [group.size for group in deps.groups]
        assert any(scores.any() for scores in found), importance
