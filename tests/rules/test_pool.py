"""Pooling, resizing, sampling, and rearrangements between channels and space."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.rules.cases import Case, case, check, each, p, t

A = torch.ops.aten
_X1, _X2, _X3 = t(2, 6, 9), t(2, 6, 9, 7), t(2, 6, 5, 7, 4)

CASES = [
    case("max_pool1d", lambda x: F.max_pool1d(x, 2), _X1),
    case("max_pool2d", lambda x: F.max_pool2d(x, 3, 2, 1), _X2),
    case("max_pool3d", lambda x: F.max_pool3d(x, 2), _X3),
    case("avg_pool1d", lambda x: F.avg_pool1d(x, 2), _X1),
    case("avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1), _X2),
    case("avg_pool3d", lambda x: F.avg_pool3d(x, 2), _X3),
    case("max_pool2d unbatched", lambda x: F.max_pool2d(x, 2), t(6, 9, 7)),
    case("avg_pool1d unbatched", lambda x: F.avg_pool1d(x, 2), t(6, 9)),
    *(
        case(
            f"max_pool{d}d with indices",
            lambda x, d=d: getattr(F, f"max_pool{d}d")(x, 2, return_indices=True),
            x,
        )
        for d, x in ((1, _X1), (2, _X2), (3, _X3))
    ),
    case("adaptive_avg_pool1d", lambda x: F.adaptive_avg_pool1d(x, 4), _X1),
    case("adaptive_avg_pool2d", lambda x: F.adaptive_avg_pool2d(x, 1), _X2),
    case("adaptive_avg_pool3d", lambda x: F.adaptive_avg_pool3d(x, 2), _X3),
    case("adaptive_avg_pool2d unbatched", lambda x: F.adaptive_avg_pool2d(x, (3, 2)), t(6, 9, 7)),
    case("native adaptive_avg_pool2d", lambda x: A._adaptive_avg_pool2d(x, [3, 2]), _X2),
    case("native adaptive_avg_pool3d", lambda x: A._adaptive_avg_pool3d(x, [3, 2, 2]), _X3),
    case("adaptive_max_pool1d", lambda x: F.adaptive_max_pool1d(x, 4), _X1),
    case("adaptive_max_pool2d", lambda x: F.adaptive_max_pool2d(x, 3), _X2),
    case("adaptive_max_pool3d", lambda x: F.adaptive_max_pool3d(x, 2), _X3),
    case(
        "fractional_max_pool2d",
        lambda x, r: F.fractional_max_pool2d(x, 2, 3, _random_samples=r),
        *(_X2, p(2, 6, 2)),
    ),
    case(
        "fractional_max_pool3d",
        lambda x, r: F.fractional_max_pool3d(x, 2, 2, _random_samples=r),
        *(_X3, p(2, 6, 3)),
    ),
    case("lp_pool1d", lambda x: F.lp_pool1d(x, 2, 3), _X1),
    case("lp_pool2d", lambda x: F.lp_pool2d(x, 2, 3), _X2),
    case(
        "max_unpool3d",
        lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2),
        t(2, 6, 4, 8, 10),
        missed=True,
    ),
    case(
        "max_unpool2d",
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        t(2, 6, 4, 8),
    ),
    case("reflection_pad1d", lambda x: A.reflection_pad1d(x, [1, 2]), _X1),
    case("reflection_pad2d", lambda x: A.reflection_pad2d(x, [1, 2, 0, 1]), _X2),
    case("reflection_pad3d", lambda x: A.reflection_pad3d(x, [1, 2, 0, 1, 1, 1]), _X3),
    case("replication_pad1d", lambda x: A.replication_pad1d(x, [1, 2]), _X1),
    case("replication_pad2d", lambda x: A.replication_pad2d(x, [1, 2, 0, 1]), _X2),
    case("replication_pad3d", lambda x: A.replication_pad3d(x, [1, 2, 0, 1, 1, 1]), _X3),
    case("reflection_pad2d unbatched", lambda x: A.reflection_pad2d(x, [1, 2, 0, 1]), t(6, 9, 7)),
    *(
        case(
            f"interpolate {mode} {x.dim() - 2}d",
            lambda x, m=mode: F.interpolate(x, scale_factor=2.0, mode=m),
            x,
        )
        for mode, x in (
            *((mode, x) for mode in ("nearest", "nearest-exact") for x in (_X1, _X2, _X3)),
            *(
                ("linear", _X1),
                ("bilinear", _X2),
                ("bicubic", _X2),
                ("trilinear", _X3),
                ("area", _X2),
            ),
        )
    ),
    case(
        "interpolate to a size",
        lambda x: F.interpolate(x, size=(5, 8), mode="bilinear", align_corners=True),
        _X2,
    ),
    case("interpolate down", lambda x: F.interpolate(x, size=(4, 3)), _X2),
    case(
        "antialias bilinear",
        lambda x: F.interpolate(x, size=(4, 3), mode="bilinear", antialias=True),
        _X2,
    ),
    case(
        "antialias bicubic",
        lambda x: F.interpolate(x, size=(4, 3), mode="bicubic", antialias=True),
        _X2,
    ),
    case("grid_sample", lambda x, g: F.grid_sample(x, g, align_corners=False), _X2, t(2, 4, 5, 2)),
    case(
        "grid_sample 3d",
        lambda x, g: F.grid_sample(x, g, align_corners=False),
        _X3,
        t(2, 4, 5, 6, 3),
    ),
    case("grid_sampler_2d", lambda x, g: A.grid_sampler_2d(x, g, 0, 0, False), _X2, t(2, 4, 5, 2)),
    case(
        "grid_sampler_3d", lambda x, g: A.grid_sampler_3d(x, g, 0, 0, False), _X3, t(2, 4, 5, 6, 3)
    ),
    case("affine_grid", lambda x: F.affine_grid(x, [4, 6, 5, 7], align_corners=False), t(4, 2, 3)),
    case("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), t(2, 12, 5, 7)),
    case("pixel_shuffle unbatched", lambda x: F.pixel_shuffle(x, 2), t(12, 5, 7)),
    case("pixel_shuffle by 3", lambda x: F.pixel_shuffle(x, 3), t(2, 18, 5, 7)),
    case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), t(2, 3, 8, 10)),
    case("there and back", lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), t(2, 12, 5, 7)),
    case("channel_shuffle", lambda x: A.channel_shuffle(x, 2), t(3, 6, 5, 7)),
    case("native channel_shuffle", lambda x: A.native_channel_shuffle(x, 3), t(2, 6, 5, 7)),
    case("unfold", lambda x: F.unfold(x, 3, padding=1), _X2),
    case("unfold strided", lambda x: F.unfold(x, (2, 3), stride=2), _X2),
    case("unfold unbatched", lambda x: F.unfold(x, 3), t(6, 9, 7)),
    case("fold", lambda x: F.fold(x, (4, 5), (2, 2)), t(2, 24, 12)),
    case("fold unbatched", lambda x: F.fold(x, (4, 5), (2, 2)), t(24, 12)),
    case("fold of unfold", lambda x: F.fold(F.unfold(x, 2), (9, 7), 2), _X2),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)
