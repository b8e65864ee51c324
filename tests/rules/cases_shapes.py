"""Reshapes, sums of axes, and look-ups."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tests.rules.tensors import Case, k, many, t

aten = torch.ops.aten

RESHAPES: dict[str, Case] = {
    "reshape": (
        many(
            *(lambda x: x.reshape(2, 3, 4, 5), lambda x: x.reshape(6, -1), lambda x: x.view(-1)),
            *(lambda x: x.reshape(2, 3, 20), lambda x: aten._unsafe_view(x, [6, 20])),
            *(lambda x: aten.view_copy(x, [6, 20]), lambda x: x.view_as(torch.zeros(6, 20))),
            lambda x: x.reshape_as(torch.zeros(6, 20)),
        ),
        (t(6, 4, 5),),
    ),
    "reshape, sizes do not divide": (lambda x: x.reshape(9, 4), (t(6, 6),)),
    "heads": (
        lambda x: x.reshape(2, 5, 3, 4).transpose(1, 2).flatten(2).unflatten(2, (5, -1)).sum(2),
        (t(2, 5, 12),),
    ),
    "flatten": (
        many(
            *(lambda x: x.flatten(1), lambda x: x.squeeze(1), lambda x: x.squeeze((1,))),
            *(
                lambda x: x.unsqueeze(-1),
                lambda x: x.unflatten(2, (2, 3)),
                lambda x: x[None, ..., 0],
            ),
        ),
        (t(4, 1, 6, 5),),
    ),
    "squeeze": (lambda x: x.squeeze(), (t(9, 1, 8),)),
    "permute": (
        many(
            *(lambda x: x.permute(2, 0, 1), lambda x: x.permute(-1, 0, -2), lambda x: x.mT),
            *(lambda x: aten.permute_copy(x, [1, 2, 0]), lambda x: x.transpose(0, -1)),
            *(lambda x: x.swapaxes(0, 1), lambda x: x.swapdims(1, 2), lambda x: x.adjoint()),
            *(lambda x: aten.transpose_copy(x, 0, 1), lambda x: x[0].t(), lambda x: x[0].T),
            lambda x: aten.contiguous(x.mT),
            *(lambda x: x.movedim(0, -1), lambda x: x.movedim((0, 1), (1, 2))),
            lambda x: x.moveaxis(2, 0),
        ),
        (t(3, 4, 5),),
    ),
    "numpy_T": (lambda x: aten.numpy_T(x), (t(3, 4),)),
    "expand": (
        many(
            *(lambda x, y: x.expand(2, 3, 4) * y, lambda x, y: x.expand(-1, 4) * y),
            *(lambda x, y: x.expand_as(y), lambda x, y: x.broadcast_to(2, 3, 4)),
            lambda x, y: aten.expand_copy(x, [2, 3, 4]),
            lambda x, y: torch.broadcast_tensors(x, y),
        ),
        (t(3, 1), t(2, 3, 4)),
    ),
    "repeat": (
        many(
            *(lambda x: x.repeat(2, 1, 3), lambda x: x.repeat(2, 3), lambda x: x.tile((2,))),
            lambda x: x.tile((2, 1, 3)),
        ),
        (t(4, 5),),
    ),
    "repeat_interleave": (
        many(
            *(lambda x: x.repeat_interleave(3, 1), lambda x: x.repeat_interleave(2, dim=-1)),
            lambda x: x.repeat_interleave(2),
        ),
        (t(4, 5),),
    ),
    "meshgrid": (
        many(
            lambda x, y: torch.meshgrid(x, y, indexing="ij"),
            lambda x, y: torch.meshgrid(x, y, indexing="xy"),
        ),
        (t(4), t(5)),
    ),
}

SUMS: dict[str, Case] = {
    "cat": (
        many(
            *(lambda x, y: torch.cat([x, y], 1), lambda x, y: torch.cat([x, x, y], -2)),
            lambda x, y: torch.concat([x, y], 1),
            lambda x, y: torch.concatenate([x, y], 1),
            lambda x, y: torch.cat([x, y], 1).split([3, 4], 1),
            lambda x, y: torch.cat([x, y], 1).reshape(2, -1).reshape(2, 7, 5).softmax(1),
        ),
        (t(2, 3, 5), t(2, 4, 5)),
    ),
    "stack": (
        many(lambda x, y: torch.stack([x, y], 1), lambda x, y: torch.stack([x, y], -1)),
        (t(4, 5), t(4, 5)),
    ),
    "split": (
        many(
            *(lambda x: x.split(2, 1), lambda x: x.split([1, 3, 3], 1), lambda x: x.chunk(3, 1)),
            *(lambda x: x.tensor_split(3, 1), lambda x: x.tensor_split([2, 5], 1)),
            *(lambda x: aten.unsafe_chunk(x, 2, 1), lambda x: aten.unsafe_split(x, 3, 1)),
            *(lambda x: aten.split_copy(x, 3, 1), lambda x: x.chunk(2, -1)[1] * 2),
            lambda x: aten.split_with_sizes_copy(x, [3, 4], 1),
            lambda x: aten.split_with_sizes(x, [3, 4], 1),
        ),
        (t(2, 7, 4),),
    ),
    "unbind": (lambda x: x.unbind(1), (t(4, 3, 5),)),
    "select": (
        many(
            lambda x: x[:, 3],
            lambda x: x.select(-1, 0),
            lambda x: x[:, -1],
            lambda x: x[2, ..., -2],
        ),
        (t(4, 6, 5),),
    ),
    "slice": (
        many(
            *(lambda x: x[:, 2:5], lambda x: x[:, :-2], lambda x: x[:, -3:], lambda x: x[:, -4:-1]),
            *(lambda x: x[:, 2:], lambda x: x[:, 5:2], lambda x: x.narrow(1, 2, 3), lambda x: x[:]),
            lambda x: x[:, :100],
        ),
        (t(4, 8, 5),),
    ),
    "slice with a step": (many(lambda x: x[:, ::2], lambda x: x[:, 1::2]), (t(4, 8),)),
    "slice with an odd step": (many(lambda x: x[:, ::3], lambda x: x[:, 2:7:2]), (t(4, 8),)),
    "pad": (
        many(
            *(
                lambda x: F.pad(x, (1, 2)),
                lambda x: F.pad(x, (0, 0, 2, 3)),
                lambda x: F.pad(x, (-1, 2)),
            ),
            *(lambda x: F.pad(x, (1, 1, 0, 2), value=1.0), lambda x: F.pad(x, (1, 1), "replicate")),
            lambda x: aten.constant_pad_nd(x, [1, 0, 0, 2]),
        ),
        (t(2, 4, 5),),
    ),
}

LOOKUPS: dict[str, Case] = {
    "embedding": (lambda i, w: F.embedding(i, w), (k(7, 2, 3), t(7, 4))),
    "index": (
        many(
            *(lambda x, i, j: x[:, i], lambda x, i, j: x[i, :, j], lambda x, i, j: x[i, j]),
            lambda x, i, j: x[:, :, i[:, None] + j[None] * 0],
        ),
        (t(3, 4, 5), k(3, 4), k(4, 4)),
    ),
    "index with a mask": (lambda x: torch.where(x > 0, x, 0)[:, [0, 2]], (t(4, 3),)),
    "index_put": (
        lambda x, i: x.clone().index_put_((i,), torch.zeros(4)),
        (t(3, 4), k(3, 2)),
    ),
    "index_select": (lambda x, i: x.index_select(1, i), (t(3, 4), k(4, 6))),
    "gather": (
        many(lambda x, i: x.gather(1, i), lambda x, i: torch.take_along_dim(x, i, 1)),
        (t(3, 4), k(4, 3, 6)),
    ),
    "gather from a corner": (lambda x, i: x.gather(1, i), (t(3, 4), k(4, 2, 6))),
    "scatter": (
        many(
            *(lambda x, i, s: x.scatter(1, i, s), lambda x, i, s: x.scatter_add(1, i, s)),
            lambda x, i, s: x.scatter_reduce(1, i, s, "sum"),
            lambda x, i, s: x.masked_scatter(x > 0, x),
        ),
        (t(3, 4), k(4, 3, 2), t(3, 2)),
    ),
}

CASES: dict[str, Case] = {**RESHAPES, **SUMS, **LOOKUPS}
