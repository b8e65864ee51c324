"""Counts that the model's code equates, as a preference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

import graphprune
from graphprune.choice.request import Request
from graphprune.choice.solve import Problem
from graphprune.choice.tie import learn, preferences, repeated
from graphprune.core.axes import leaves
from graphprune.core.relations import Mismatch, Ties
from tests.blocks import Attention


def test_the_width_follows_whole_heads_else_what_is_inside_heads() -> None:
    deps = graphprune.analyze(Attention(64, 8), torch.randn(2, 6, 10))
    sizes = {group.id: group.size for group in deps.groups}
    outer, inner, *_ = preferences(deps, [], alike=False)
    heads = next(g.id for g in deps.groups if sizes[g.id] == 8)
    (width,) = outer.followers
    assert (sizes[width], outer.followers[width], outer.steps[width]) == (64, (heads,), 8)
    assert [sizes[i] for i in outer.frozen] == [8] and heads not in outer.frozen
    assert heads in inner.frozen and heads not in inner.followers[width]


def test_groups_keep_the_multiples_that_kernels_ask_for_beside_others() -> None:
    net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 18), nn.ReLU(), nn.Linear(18, 3))
    deps = graphprune.analyze(net, torch.randn(2, 6))
    wide, narrow = (deps.group(f"{name}.weight[0]").id for name in (0, 2))
    scores = [np.arange(1.0, group.size + 1) for group in deps.groups]
    for tied in (True, False):
        grained = wide if tied else narrow  # 18 is no multiple of 4: it may stay whole
        deps.groups[grained] = replace(deps.groups[grained], grain=4)
        for share in (0.2, 0.45, 0.7):
            problem = Problem(deps, scores, Request(share))
            if tied:
                problem.ties = Ties(followers={narrow: (wide,)}, steps={narrow: 9})
            for step, reach in ((1, 0.1), (2, 1.0), (8, 0.5)):
                kept = problem.solve(step, reach)[grained]
                assert kept % 4 == 0 or kept == deps.groups[grained].size
        deps.groups[grained] = replace(deps.groups[grained], grain=1)


def test_a_mismatch_teaches_a_relation() -> None:
    deps = graphprune.analyze(Attention(64, 8), torch.randn(2, 6, 10))
    width = next(group for group in deps.groups if group.size == 64)
    heads, inner = (group.axis for group in deps.groups if group.size == 8)
    counts = {width.axis: 40}
    ((dim, other),) = learn(deps, counts, [Mismatch((heads, inner), 40)])
    assert (dim, leaves(other)) == ((heads, inner), [width.axis])
    assert learn(deps, counts, [Mismatch((heads, inner), 39)]) == [((heads, inner), ())]


class _Halves(nn.Module):
    """A gate whose two halves have widths of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 256)
        self.left, self.right = nn.Linear(128, 8), nn.Linear(128, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.stem(x).chunk(2, dim=-1)
        return self.left(a) + self.right(b)


def test_relations_keep_counts_in_proportion_or_frozen() -> None:
    deps = graphprune.analyze(_Halves(), torch.randn(2, 6))
    first, second = deps.groups
    ties = preferences(deps, [((first.axis,), (second.axis,))], alike=False)[0]
    assert ties.followers in ({first.id: (second.id,)}, {second.id: (first.id,)})
    ties = preferences(deps, [((first.axis,), ())], alike=False)[0]
    assert ties.frozen == {first.id} and not ties.followers


def test_equal_halves_keep_the_callers_class() -> None:
    small = graphprune.plan(
        _Halves(), ratio=0.4, example_inputs=torch.randn(2, 6), compensate=False
    ).apply()
    assert type(small) is _Halves
    assert small.stem.out_features == 2 * small.left.in_features == 2 * small.right.in_features


class _Shuffled(nn.Module):
    """A ShuffleNetV2-like block: one half of a chunk goes through layers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 32, 1)
        self.branch = nn.Sequential(
            nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1, groups=8), nn.Conv2d(8, 8, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.stem(x).chunk(2, 1)
        return self.head(torch.cat([a, self.branch(b)], 1))


def test_equal_halves_are_preferred_within_the_whole_tolerance() -> None:
    """Unequal halves meet one half of the parameters exactly; equal ones come within 1 %."""
    for ratio in (0.4, 0.5, 0.6):
        plan = graphprune.plan(
            _Shuffled().eval(), ratio, example_inputs=torch.randn(2, 3, 6, 6), compensate=False
        )
        assert type(plan.apply()) is _Shuffled
        assert plan.report is not None and abs(plan.report.achieved - ratio) <= 0.01


def test_repeated_blocks_keep_the_same_widths_where_asked() -> None:
    blocks = [nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8)) for _ in range(3)]
    deps = graphprune.analyze(nn.Sequential(*blocks), torch.randn(2, 8))
    hidden = [group.id for group in deps.groups if group.size == 24]
    alike = preferences(deps, [], alike=True)[0]
    assert alike.followers[hidden[0]] == tuple(hidden[1:])
    assert not preferences(deps, [], alike=False)[0].followers


def test_a_mismatch_in_proportion_teaches_a_relation_too() -> None:
    deps = graphprune.analyze(
        nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4)),
        torch.randn(2, 6),
    )
    first, second = (group.axis for group in deps.groups)
    ((dim, other),) = learn(deps, {first: 16, second: 48}, [Mismatch((second,), 32)])
    assert (leaves(dim), leaves(other)) == ([second], [first])
    ties = preferences(deps, [(dim, other)], alike=False)[0]
    assert ties.followers and not ties.frozen


class _Segments(nn.Module):
    """A sum of two segments, taken for a width of heads x head_dim."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 32), nn.Linear(6, 32)
        self.qkv, self.proj = nn.Linear(64, 64), nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([self.left(x), self.right(x)], dim=-1)
        z = self.qkv(y).reshape(*x.shape[:-1], 4, -1).mul(0.5)
        return self.proj(z.reshape(y.shape))


def test_a_product_follows_segments_of_the_same_length() -> None:
    plan = graphprune.plan(
        _Segments(), 0.405, example_inputs=torch.randn(2, 7, 6), compensate=False
    )
    small = plan.apply()
    assert type(small) is _Segments and not plan.report.replaced
    assert small.left.out_features + small.right.out_features == small.proj.in_features


def test_models_that_a_config_describes_rather_leave_coarse_products_alone() -> None:
    deps = graphprune.analyze(Attention(64, 8), torch.randn(2, 6, 10))
    heads = {group.id for group in deps.groups if group.size == 8}
    assert any(heads <= ties.frozen for ties in preferences(deps, [], alike=True))
    assert not any(heads <= ties.frozen for ties in preferences(deps, [], alike=False))


def test_what_a_config_equates_is_given_up_before_what_the_code_does() -> None:
    deps = graphprune.analyze(Attention(64, 8), torch.randn(2, 6, 10))
    width, heads = (next(g for g in deps.groups if g.size == size) for size in (64, 8))
    code, config = ((heads.axis,), ()), ((width.axis,), ())
    found = preferences(deps, [code], alike=False, wished=[config])
    frozen = [{width.id, heads.id} & ties.frozen for ties in found if heads.id in ties.frozen]
    assert {width.id, heads.id} in frozen and frozen[-1] == {heads.id}
    assert all(heads.id in ties.frozen for ties in found)


class _Turned(Attention):
    """Attention whose heads are the outer factor before the product, and the inner one behind."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = (0.3 * q @ k.transpose(-1, -2)).softmax(-1) @ v
        return self.head(x + self.proj(y.permute(0, 2, 3, 1).reshape(b, n, c))).mean(1)


def test_products_in_another_order_vary_in_the_same_axis() -> None:
    deps = graphprune.analyze(_Turned(96, 6), torch.randn(2, 6, 10))
    sizes = {group.id: group.size for group in deps.groups}
    ties = preferences(deps, [], alike=False)[0]
    (width,) = ties.followers
    assert (sizes[width], [sizes[i] for i in ties.followers[width]]) == (96, [6])
    assert [sizes[i] for i in ties.frozen] == [16]
    small = graphprune.shrink(
        _Turned(96, 6), 0.3, example_inputs=torch.randn(2, 6, 10), compensate=False
    )
    assert type(small) is _Turned and 16 * small.num_heads == small.embed.out_features < 96


class _Gates(nn.Module):
    """Three gates, in which code equates the widths of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"a": nn.Linear(6, 16), "b": nn.Linear(6, 16), "c": nn.Linear(32, 6)})
            for _ in range(3)
        )
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block["c"](torch.cat([block["a"](x), block["b"](x)], -1))
        return self.b(self.a(x))


def test_what_one_block_equates_is_equated_in_blocks_like_it() -> None:
    deps = graphprune.analyze(_Gates(), torch.randn(2, 6))
    axes = {group.name: group.axis for group in deps.groups}

    def pair(first: str, second: str) -> tuple[Any, Any]:
        return (axes[f"{first}.weight[0]"],), (axes[f"{second}.weight[0]"],)

    found = list(repeated(deps, [pair("blocks.1.a", "blocks.1.b")]))
    assert found == [pair(f"blocks.{i}.a", f"blocks.{i}.b") for i in range(3)]
    across = pair("blocks.1.a", "a")  # no block holds both
    assert not list(repeated(deps, [across, (across[0], ())]))
