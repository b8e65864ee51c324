"""Convolutions: grouped, depthwise, transposed, padded by name, without a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.rules.cases import Case, case, check, each, t

A = torch.ops.aten
_PLAIN = {"stride": [1, 1], "padding": [1, 1], "dilation": [1, 1], "output_padding": [0, 0]}

# `missed` where a window is one wide in some directions: `*` locks all of them.
CASES = [
    case("conv1d", lambda x, w, b: F.conv1d(x, w, b, padding=1), t(2, 6, 9), t(8, 6, 3), t(8)),
    case("conv2d", lambda x, w, b: F.conv2d(x, w, b, 2, 1), t(2, 6, 9, 7), t(8, 6, 3, 3), t(8)),
    case("conv3d", lambda x, w: F.conv3d(x, w, padding=1), t(2, 3, 5, 6, 7), t(4, 3, 3, 3, 3)),
    case("dilated", lambda x, w: F.conv2d(x, w, dilation=2), t(2, 6, 9, 10), t(8, 6, 3, 3)),
    case("same", lambda x, w: F.conv2d(x, w, padding="same"), t(2, 6, 9, 7), t(8, 6, 3, 3)),
    case("same 1d", lambda x, w: F.conv1d(x, w, padding="same"), t(2, 6, 9), t(8, 6, 4)),
    case("valid", lambda x, w: F.conv2d(x, w, padding="valid"), t(2, 6, 9, 7), t(8, 6, 3, 3)),
    case("1x1", lambda x, w, b: F.conv2d(x, w, b), t(2, 6, 9, 7), t(8, 6, 1, 1), t(8)),
    case("1x1 valid", lambda x, w: F.conv2d(x, w, padding="valid"), t(2, 6, 9, 7), t(8, 6, 1, 1)),
    case("1x1 padded", lambda x, w: F.conv2d(x, w, padding=1), t(2, 6, 9, 7), t(8, 6, 1, 1)),
    case("1x1 strided", lambda x, w: F.conv2d(x, w, stride=2), t(2, 6, 9, 7), t(8, 6, 1, 1)),
    case("1x1 grouped", lambda x, w: F.conv2d(x, w, groups=2), t(2, 6, 9, 7), t(8, 3, 1, 1)),
    case(
        "kernel 1x3",
        lambda x, w: F.conv2d(x, w, padding=(0, 1)),
        t(2, 6, 9, 7),
        t(8, 6, 1, 3),
        missed=True,
    ),
    case(
        "grouped", lambda x, w, b: F.conv2d(x, w, b, groups=3), t(2, 6, 5, 7), t(9, 2, 3, 3), t(9)
    ),
    case(
        "depthwise", lambda x, w, b: F.conv2d(x, w, b, groups=6), t(2, 6, 5, 7), t(6, 1, 3, 3), t(6)
    ),
    case("depth multiplier", lambda x, w: F.conv2d(x, w, groups=4), t(2, 4, 5, 7), t(12, 1, 3, 3)),
    case("grouped 1d", lambda x, w: F.conv1d(x, w, groups=2), t(2, 6, 9), t(8, 3, 3)),
    case("unbatched 1d", lambda x, w: F.conv1d(x, w), t(6, 9), t(8, 6, 3)),
    case("unbatched 2d", lambda x, w, b: F.conv2d(x, w, b), t(6, 9, 7), t(8, 6, 3, 3), t(8)),
    case("unbatched grouped", lambda x, w: F.conv2d(x, w, groups=2), t(6, 9, 7), t(8, 3, 3, 3)),
    case("unbatched 1x1", lambda x, w: F.conv2d(x, w), t(6, 9, 7), t(8, 6, 1, 1)),
    case("transposed 1d", lambda x, w: F.conv_transpose1d(x, w, stride=2), t(2, 6, 9), t(6, 8, 3)),
    case(
        "transposed",
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, output_padding=1),
        t(2, 6, 9, 7),
        t(6, 8, 3, 3),
        t(8),
    ),
    case("transposed 3d", F.conv_transpose3d, t(2, 6, 4, 5, 3), t(6, 7, 2, 2, 2), t(7)),
    case(
        "transposed grouped",
        lambda x, w, b: F.conv_transpose2d(x, w, b, groups=2),
        t(2, 6, 9, 7),
        t(6, 4, 3, 3),
        t(8),
    ),
    case(
        "transposed depthwise",
        lambda x, w: F.conv_transpose2d(x, w, groups=6),
        t(2, 6, 9, 7),
        t(6, 1, 3, 3),
    ),
    case("transposed unbatched", lambda x, w: F.conv_transpose2d(x, w), t(6, 9, 7), t(6, 8, 3, 3)),
    case(
        "convolution",
        lambda x, w, b: A.convolution(x, w, b, **_PLAIN, transposed=False, groups=2),
        t(2, 6, 9, 7),
        t(8, 3, 3, 3),
        t(8),
    ),
    case(
        "convolution transposed",
        lambda x, w, b: A.convolution(x, w, b, **_PLAIN, transposed=True, groups=2),
        t(2, 6, 9, 7),
        t(6, 4, 3, 3),
        t(8),
    ),
    case(
        "two in a row",
        lambda x, v, w: F.conv2d(F.conv2d(x, v).relu(), w, groups=2),
        t(2, 5, 9, 7),
        t(6, 5, 3, 3),
        t(8, 3, 3, 3),
    ),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)
