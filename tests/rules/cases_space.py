"""Pooling, resizing and other windows, and recurrent layers."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from tests.rules.tensors import Case, many, p, t

aten = torch.ops.aten

_X1, _X2, _X3 = t(2, 3, 8), t(2, 3, 8, 8), t(1, 3, 4, 4, 4)

POOLS: dict[str, Case] = {
    "pools, 1d": (
        many(
            *(lambda x: F.max_pool1d(x, 2), lambda x: F.avg_pool1d(x, 2)),
            *(lambda x: F.adaptive_avg_pool1d(x, 2), lambda x: F.adaptive_max_pool1d(x, 2)),
            *(lambda x: F.max_pool1d(x, 2, return_indices=True), lambda x: F.lp_pool1d(x, 2, 2)),
            *(
                lambda x: F.pad(x, (1, 1), mode="reflect"),
                lambda x: aten.reflection_pad1d(x, [1, 1]),
            ),
            lambda x: aten.replication_pad1d(x, [1, 1]),
        ),
        (_X1,),
    ),
    "pools, 2d": (
        many(
            *(lambda x: F.max_pool2d(x, 2), lambda x: F.avg_pool2d(x, 3, 2, 1)),
            *(lambda x: F.adaptive_avg_pool2d(x, 1), lambda x: F.adaptive_max_pool2d(x, 2)),
            *(lambda x: F.max_pool2d(x, 2, return_indices=True), lambda x: F.lp_pool2d(x, 2, 2)),
            lambda x: aten._adaptive_avg_pool2d(x, [2, 2]),
            lambda x: aten.reflection_pad2d(x, [1, 1, 2, 2]),
            lambda x: aten.replication_pad2d(x, [1, 1, 2, 2]),
            lambda x: aten.max_pool2d_with_indices(x, [2, 2]),
            lambda x: F.max_pool2d(x[0], 2),
        ),
        (_X2,),
    ),
    "pools, 3d": (
        many(
            *(lambda x: F.max_pool3d(x, 2), lambda x: F.avg_pool3d(x, 2)),
            *(lambda x: F.adaptive_avg_pool3d(x, 2), lambda x: F.adaptive_max_pool3d(x, 2)),
            lambda x: F.max_pool3d(x, 2, return_indices=True),
            lambda x: aten._adaptive_avg_pool3d(x, [2, 2, 2]),
            lambda x: aten.reflection_pad3d(x, [1] * 6),
            lambda x: aten.replication_pad3d(x, [1] * 6),
        ),
        (_X3,),
    ),
    "fractional pools": (
        many(
            lambda x, y, s, r: aten.fractional_max_pool2d(x, [2, 2], [3, 3], s),
            lambda x, y, s, r: aten.fractional_max_pool3d(y, [2, 2, 2], [2, 2, 2], r),
        ),
        (_X2, _X3, p(2, 3, 2), p(1, 3, 3)),
    ),
    "resizing": (
        many(
            *(
                lambda x, y, z: F.interpolate(x, scale_factor=2),
                lambda x, y, z: F.interpolate(y, (5, 5)),
            ),
            *(
                lambda x, y, z: F.interpolate(z, scale_factor=2),
                lambda x, y, z: F.interpolate(x, 5, mode="linear"),
            ),
            lambda x, y, z: F.interpolate(y, scale_factor=2, mode="bilinear"),
            lambda x, y, z: F.interpolate(z, scale_factor=2, mode="trilinear"),
            lambda x, y, z: F.interpolate(y, scale_factor=2, mode="bicubic"),
            lambda x, y, z: F.interpolate(y, (5, 5), mode="bilinear", antialias=True),
            lambda x, y, z: F.interpolate(y, (5, 5), mode="bicubic", antialias=True),
            lambda x, y, z: F.interpolate(x, 5, mode="nearest-exact"),
            lambda x, y, z: F.interpolate(y, (5, 5), mode="nearest-exact"),
        ),
        (_X1, _X2, _X3),
    ),
    "grid_sample": (
        many(
            lambda x, g, y, h: F.grid_sample(x, g, align_corners=False),
            lambda x, g, y, h: F.grid_sample(y, h, align_corners=False),
            lambda x, g, y, h: aten.grid_sampler_2d(x, g, 0, 0, False),
            lambda x, g, y, h: aten.grid_sampler_3d(y, h, 0, 0, False),
        ),
        (t(2, 3, 5, 5), p(2, 4, 4, 2), _X3, p(1, 2, 2, 2, 3)),
    ),
    "pixel_shuffle": (
        many(lambda x: F.pixel_shuffle(x, 2), lambda x: F.pixel_shuffle(x[0], 2)),
        (t(2, 12, 3, 4),),
    ),
    "pixel_unshuffle": (lambda x: F.pixel_unshuffle(x, 2), (t(2, 3, 4, 6),)),
    "channel_shuffle": (lambda x: F.channel_shuffle(x, 3), (t(2, 12, 3, 4),)),
    "native channel_shuffle": (lambda x: aten.native_channel_shuffle(x, 3), (t(2, 12, 3, 4),)),
    "unfold": (lambda x: F.unfold(x, 2), (t(2, 3, 4, 5),)),
    "unfold, kernel of one": (lambda x: F.unfold(x, 1), (t(2, 3, 4, 5),)),
    "fold": (lambda x: F.fold(x, (4, 5), 2), (t(2, 12, 12),)),
}


def _recurrent(
    kind: str, layers: int = 1, both: bool = False, bias: bool = True, projected: int = 0
) -> Case:
    """A recurrent layer over a sequence of 4, 5 features wide, with a hidden width of 6."""
    gates = {"lstm": 4, "gru": 3}.get(kind, 1)
    directions, hidden = 1 + both, projected or 6
    weights: list[torch.Tensor] = []
    for layer in range(layers):
        fed = hidden * directions if layer else 5
        for _ in range(directions):
            weights += [t(gates * 6, fed), t(gates * 6, hidden)]
            weights += [t(gates * 6), t(gates * 6)] if bias else []
            weights += [t(hidden, 6)] if projected else []
    states = [t(layers * directions, 2, hidden)]
    states += [t(layers * directions, 2, 6)] if kind == "lstm" else []
    function = getattr(torch, kind)

    def run(x: torch.Tensor, *rest: torch.Tensor) -> Any:
        start = tuple(rest[: len(states)]) if kind == "lstm" else rest[0]
        return function(x, start, rest[len(states) :], bias, layers, 0.0, False, both, False)

    return run, (t(4, 2, 5), *states, *weights)


def _cell(kind: str, bias: bool = True) -> Case:
    gates = {"lstm": 4, "gru": 3}.get(kind.partition("_")[0], 1)
    function = getattr(torch, kind)
    biases = [t(gates * 6), t(gates * 6)] if bias else []
    weights = [t(gates * 6, 5), t(gates * 6, 6), *biases]
    if kind == "lstm_cell":
        return lambda x, h, c, *w: function(x, (h, c), *w), (t(2, 5), t(2, 6), t(2, 6), *weights)
    return lambda x, h, *w: function(x, h, *w), (t(2, 5), t(2, 6), *weights)


RECURRENT: dict[str, Case] = {
    **{kind: _recurrent(kind) for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu")},
    "lstm, stacked": _recurrent("lstm", layers=2),
    "lstm, bidirectional, stacked": _recurrent("lstm", layers=2, both=True),
    "lstm without bias": _recurrent("lstm", layers=2, bias=False),
    "lstm, projected": _recurrent("lstm", projected=3),
    "lstm, projected, bidirectional, stacked": _recurrent("lstm", 2, True, projected=3),
    "lstm, projected, without bias": _recurrent("lstm", 2, bias=False, projected=3),
    "gru, bidirectional, stacked": _recurrent("gru", layers=2, both=True),
    "gru without bias": _recurrent("gru", bias=False),
    "rnn, bidirectional": _recurrent("rnn_relu", both=True),
    **{kind: _cell(kind) for kind in ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")},
    "gru_cell without bias": _cell("gru_cell", bias=False),
}

CASES: dict[str, Case] = {**POOLS, **RECURRENT}
