"""Convolutions, matrix products, normalisation, attention, pooling and recurrent layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from tests.rules.tensors import Case, many, p, t

aten = torch.ops.aten


def _einsum(equation: str) -> Callable[..., Any]:
    return lambda *tensors: torch.einsum(equation, *tensors)


CONVOLUTIONS: dict[str, Case] = {
    "conv1d": (F.conv1d, (t(2, 4, 9), t(6, 4, 3), t(6))),
    "conv2d": (
        lambda x, w, b: F.conv2d(x, w, b, stride=2, padding=1, dilation=2),
        (t(2, 4, 9, 9), t(6, 4, 3, 3), t(6)),
    ),
    "conv3d": (F.conv3d, (t(1, 3, 4, 4, 4), t(5, 3, 2, 2, 2), t(5))),
    "conv2d without bias": (F.conv2d, (t(2, 4, 5, 5), t(6, 4, 3, 3))),
    "conv2d unbatched": (F.conv2d, (t(4, 5, 5), t(6, 4, 3, 3), t(6))),
    "conv2d same": (
        lambda x, w: F.conv2d(x, w, padding="same"),
        (t(2, 4, 5, 5), t(6, 4, 3, 3)),
    ),
    "conv2d same, grouped": (
        lambda x, w: F.conv2d(x, w, padding="same", groups=3),
        (t(2, 6, 5, 5), t(9, 2, 3, 3)),
    ),
    "conv2d 1x1": (F.conv2d, (t(2, 4, 5, 5), t(6, 4, 1, 1), t(6))),
    "conv2d 1x1 valid": (
        lambda x, w: F.conv2d(x, w, padding="valid"),
        (t(2, 4, 5, 5), t(6, 4, 1, 1)),
    ),
    "conv2d 1x1 same": (
        lambda x, w: F.conv2d(x, w, padding="same"),
        (t(2, 4, 5, 5), t(6, 4, 1, 1)),
    ),
    "conv2d 1x1 padded": (
        lambda x, w: F.conv2d(x, w, padding=1),
        (t(2, 4, 5, 5), t(6, 4, 1, 1)),
    ),
    "conv2d 1x1 strided": (
        lambda x, w: F.conv2d(x, w, stride=2),
        (t(2, 4, 5, 5), t(6, 4, 1, 1)),
    ),
    "conv2d grouped": (
        lambda x, w, b: F.conv2d(x, w, b, groups=3),
        (t(2, 12, 5, 5), t(9, 4, 3, 3), t(9)),
    ),
    "conv2d depthwise": (
        lambda x, w: F.conv2d(x, w, padding=1, groups=6),
        (t(2, 6, 5, 5), t(6, 1, 3, 3)),
    ),
    "conv2d depth multiplier": (
        lambda x, w, b: F.conv2d(x, w, b, groups=4),
        (t(2, 4, 5, 5), t(12, 1, 3, 3), t(12)),
    ),
    "conv1d grouped, unbatched": (
        lambda x, w: F.conv1d(x, w, groups=2),
        (t(6, 7), t(8, 3, 3)),
    ),
    "conv_transpose1d": (F.conv_transpose1d, (t(2, 4, 5), t(4, 6, 3), t(6))),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2, output_padding=1),
        (t(2, 4, 5, 5), t(4, 6, 3, 3), t(6)),
    ),
    "conv_transpose2d grouped": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, groups=3),
        (t(2, 12, 5, 5), t(12, 2, 3, 3), t(6)),
    ),
    "conv_transpose2d depthwise": (
        lambda x, w: F.conv_transpose2d(x, w, groups=6),
        (t(2, 6, 5, 5), t(6, 1, 3, 3)),
    ),
    "conv_transpose3d unbatched": (F.conv_transpose3d, (t(3, 4, 4, 4), t(3, 5, 2, 2, 2), t(5))),
    "convolution": (
        lambda x, w: aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 2),
        (t(1, 4, 5, 5), t(6, 2, 3, 3)),
    ),
    "convolution, transposed": (
        lambda x, w: aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], True, [0, 0], 2),
        (t(1, 4, 5, 5), t(4, 3, 3, 3)),
    ),
    "conv2d, strided and split": (
        lambda x, w, v: F.conv2d(F.conv2d(x, w).chunk(2, 1)[0], v, groups=2),
        (t(2, 4, 5, 5), t(12, 4, 1, 1), t(8, 3, 3, 3)),
    ),
}

PRODUCTS: dict[str, Case] = {
    "linear": (F.linear, (t(2, 3, 4), t(5, 4), t(5))),
    "linear of a vector": (F.linear, (t(4), t(5, 4), t(5))),
    "linear with a vector": (F.linear, (t(3, 4), t(4))),
    "bilinear": (F.bilinear, (t(2, 3, 4), t(2, 3, 5), t(6, 4, 5), t(6))),
    **{
        f"matmul {a} {b}": (torch.matmul, (t(*a), t(*b)))
        for a, b in [
            *(((4,), (4,)), ((4,), (4, 5)), ((4,), (3, 4, 5)), ((3, 4), (4,)), ((2, 3, 4), (4,))),
            *(((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5))),
            *(((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (1, 4, 5)), ((2, 1, 3, 4), (5, 4, 6))),
        ]
    },
    "mm": (torch.mm, (t(3, 4), t(4, 5))),
    "bmm": (torch.bmm, (t(2, 3, 4), t(2, 4, 5))),
    "mv": (torch.mv, (t(3, 4), t(4))),
    "dot": (many(torch.dot, torch.vdot), (t(4), t(4))),
    "outer": (many(torch.outer, torch.ger), (t(3), t(4))),
    "addmm": (torch.addmm, (t(5), t(3, 4), t(4, 5))),
    "addmv": (torch.addmv, (t(3), t(3, 4), t(4))),
    "baddbmm": (torch.baddbmm, (t(2, 1, 5), t(2, 3, 4), t(2, 4, 5))),
    "addbmm": (torch.addbmm, (t(3, 5), t(2, 3, 4), t(2, 4, 5))),
    "einsum": (
        many(
            _einsum("bij,bjk->bik"),
            _einsum("bij,bjk"),
            _einsum("bij,bjk->"),
            _einsum("bij,bjk->kb"),
        ),
        (t(2, 3, 4), t(2, 4, 5)),
    ),
    "einsum with an ellipsis": (
        many(_einsum("...ij,...jk->...ik"), _einsum("...ij, ...jk"), _einsum("b...j,b...k->...")),
        (t(2, 4, 4), t(2, 4, 4)),
    ),
    "einsum of three": (_einsum("bi,oij,bj->bo"), (t(2, 3), t(6, 3, 4), t(2, 4))),
    "einsum, a diagonal": (_einsum("bii->b"), (t(2, 3, 3),)),
    "einsum of one": (many(_einsum("bij->bji"), _einsum("bij->j")), (t(2, 3, 4),)),
}


def _norm(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor, v: torch.Tensor) -> Any:
    return (
        F.batch_norm(x, b, v, w, b),
        F.batch_norm(x, None, None, w, b, training=True),
        F.instance_norm(x, weight=w, bias=b),
        aten._native_batch_norm_legit_no_training.default(x, w, b, b, v, 0.1, 1e-5),
        aten._batch_norm_no_update.default(x, w, b, b, v, 0.1, 1e-5),
        F.group_norm(x, 3, w, b),
        F.group_norm(x, 6),
    )


NORMS: dict[str, Case] = {
    "channel norms": (_norm, (t(4, 6, 3, 3), t(6), t(6), p(6))),
    "channel norms, two dimensions": (
        lambda x, w, b, v: (F.batch_norm(x, b, v, w, b), F.group_norm(x, 2, w, b)),
        (t(4, 6), t(6), t(6), p(6)),
    ),
    "native group_norm": (
        lambda x, w: aten.native_group_norm.default(x, w, w, 4, 6, 9, 3, 1e-5)[0],
        (t(4, 6, 3, 3), t(6)),
    ),
    "layer norms": (
        many(
            lambda x, w, b: F.layer_norm(x, (6,), w, b),
            lambda x, w, b: F.layer_norm(x, (4, 6)),
            lambda x, w, b: F.rms_norm(x, (6,), w),
            lambda x, w, b: aten.native_layer_norm.default(x, [6], w, b, 1e-5),
            lambda x, w, b: aten._fused_rms_norm.default(x, [6], w, 1e-5),
        ),
        (t(3, 4, 6), t(6), t(6)),
    ),
    "weight norm": (
        many(
            lambda v, g: torch._weight_norm(v, g, 0),
            lambda v, g: aten._weight_norm_interface.default(v, g, 0),
        ),
        (t(5, 4, 3), t(5, 1, 1)),
    ),
    "softmax": (
        many(
            *(lambda x: x.softmax(1), lambda x: F.log_softmax(x, -1), lambda x: F.softmin(x, 0)),
            *(lambda x: aten._softmax(x, 1, False), lambda x: aten._log_softmax(x, 1, False)),
        ),
        (t(3, 4, 5),),
    ),
}

ATTENTION: dict[str, Case] = {
    "attention": (
        F.scaled_dot_product_attention,
        (t(2, 3, 5, 4), t(2, 3, 7, 4), t(2, 3, 7, 6)),
    ),
    "attention with a mask": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
        (t(2, 3, 5, 4), t(2, 3, 7, 4), t(2, 3, 7, 6), t(3, 5, 7)),
    ),
    "attention with a boolean mask": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m > -9, scale=0.3),
        (t(2, 3, 5, 4), t(2, 3, 7, 4), t(2, 3, 7, 6), t(1, 7)),
    ),
    "causal attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        (t(2, 3, 5, 4), t(2, 3, 5, 4), t(2, 3, 5, 4)),
    ),
    "grouped-query attention": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        (t(2, 6, 5, 4), t(2, 3, 7, 4), t(2, 3, 7, 6)),
    ),
    "grouped-query attention with a mask": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m, enable_gqa=True),
        (t(2, 6, 5, 4), t(2, 3, 7, 4), t(2, 3, 7, 6), t(6, 5, 7)),
    ),
}

CASES: dict[str, Case] = {**CONVOLUTIONS, **PRODUCTS, **NORMS, **ATTENTION}
