"""Counts that the model's code equates, as a preference."""

from __future__ import annotations

import torch

import graphprune
from graphprune.passes.tie import Ties, learn, tie
from tests.blocks import Attention


def test_the_width_follows_whole_heads() -> None:
    deps = graphprune.analyze(Attention(64, 8), torch.randn(2, 6, 10))
    sizes = {group.id: group.size for group in deps.groups}
    ties = tie(deps)
    (width,) = ties.followers
    (follower,) = ties.followers[width]
    assert (sizes[width], sizes[follower], ties.steps[width]) == (64, 8, 8)
    assert [sizes[i] for i in ties.frozen] == [8]
    assert follower not in ties.frozen


def test_followers_move_along_when_their_leader_gets_one() -> None:
    ties = Ties()
    assert ties.add(1, 8, 0)
    assert ties.add(0, 1, 5)
    assert ties.followers == {5: {0: 1, 1: 8}}
    assert ties.steps == {5: 8}
    assert ties.leader(1) == 5
    assert not ties.add(1, 4, 7)
    assert not ties.add(5, 1, 5)


def test_a_mismatch_teaches_a_tie() -> None:
    deps = graphprune.analyze(Attention(64, 8), torch.randn(2, 6, 10))
    by_size = {group.size: group for group in deps.groups if group.size == 64}
    ties = Ties()
    heads = next(g for g in deps.groups if g.size == 8)
    counts = {by_size[64].axis: 40}
    inner = next(g for g in deps.groups if g.size == 8 and g is not heads)
    ties.frozen.add(inner.id)
    assert learn(ties, deps, counts, (heads.axis, inner.axis), 40)
    assert ties.followers == {by_size[64].id: {heads.id: 8}}
    assert not learn(ties, deps, counts, (heads.axis, inner.axis), 39)
