"""What the rules leave free: enough to prune, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from graphprune.core.axes import atoms
from graphprune.rules import infer
from graphprune.testing.check import _free_dims, captured
from tests.rules.cases import below, p, t


def _free(function: Callable[..., Any], *tensors: torch.Tensor) -> list[list[int]]:
    """For each input, the sizes of its axes that no rule locks."""
    graph = captured(function, *tensors).graph
    dims = _free_dims(graph)
    for op in graph.ops:
        found, _ = infer(op, dims, strict=True)
        dims.update(zip(op.outputs, found, strict=True))
    return [
        [axis.size for dim in dims[value] for axis in atoms(dim) if axis.reason is None]
        for value in graph.inputs
    ]


@pytest.mark.parametrize(
    ("function", "tensors", "free"),
    [
        (lambda x: x.flip(1), (t(3, 5),), [[3]]),
        (lambda x: x.roll(1, 1), (t(3, 5),), [[3]]),
        (lambda x: x.roll(1), (t(3, 5),), [[]]),
        (lambda x: x.cumsum(1), (t(3, 5),), [[3]]),
        (lambda x: x.argmax(1), (t(3, 5),), [[3]]),
        (torch.tril, (t(2, 3, 5),), [[2]]),
        (lambda x: x + torch.arange(5), (t(3, 5),), [[3]]),
        (lambda x: x[:, ::2], (t(3, 8),), [[3, 4]]),
        (lambda x: x[:, 3], (t(2, 8),), [[2, 3, 4]]),  # three before the one, four behind
        (lambda x: x[:, -5], (t(2, 8),), [[2, 3, 4]]),
        (lambda x: x[:, -6:], (t(3, 8),), [[3, 2, 6]]),
        (lambda x: x[:, :-6], (t(3, 8),), [[3, 2, 6]]),
        (lambda x: x[:, 2:6], (t(3, 8),), [[3, 2, 4, 2]]),
        (lambda x: x.reshape(9, 4), (t(6, 6),), [[]]),
        (lambda x: F.pad(x, (1, 1), "reflect"), (t(4, 3, 7),), [[4, 3]]),
        (lambda x: F.pad(x, (-2, -3)), (t(4, 9),), [[4, 4]]),
        (lambda x: F.pixel_shuffle(x, 2), (t(3, 20, 7, 6),), [[3, 5, 7, 6]]),
        (lambda x: F.channel_shuffle(x, 3), (t(2, 15, 4, 4),), [[2, 3, 5, 4, 4]]),
        (lambda x, i: x.index_select(1, i), (t(3, 5), below(5, 4)), [[3], [4]]),
        (F.embedding, (below(7, 3), t(7, 5)), [[3], [5]]),
        (F.conv2d, (t(2, 4, 8, 9), t(6, 4, 3, 3)), [[2, 4], [6, 4]]),
        (F.conv2d, (t(2, 4, 8, 9), t(6, 4, 1, 1)), [[2, 4, 8, 9], [6, 4]]),
        (
            lambda x, w: F.conv2d(x, w, groups=2),
            (t(3, 4, 8, 9), t(6, 2, 3, 3)),
            [[3, 2, 2], [2, 3, 2]],
        ),
        (
            lambda x, g: F.grid_sample(x, g, align_corners=False),
            (t(2, 3, 5, 6), p(2, 4, 4, 2)),
            [[2, 3], [2, 4, 4]],
        ),
        (
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
            (t(2, 4, 6), t(2, 5, 6), t(2, 5, 7)),
            [[2, 6], [2, 6], [2, 7]],
        ),
        (lambda x: x.squeeze(), (t(6, 1, 5),), [[6, 5]]),
        (nn.LSTM(5, 6), (t(3, 2, 5),), [[2, 5]]),  # batch and features, not the steps
    ],
)
def test_what_stays_free(
    function: Callable[..., Any], tensors: tuple[torch.Tensor, ...], free: list[list[int]]
) -> None:
    assert _free(function, *tensors) == free
