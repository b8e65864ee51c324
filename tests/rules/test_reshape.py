"""Reshapes, permutations, repetition, and windows over a dimension."""

from __future__ import annotations

import torch
from torch import nn

import graphprune
from tests.rules.cases import Case, case, check, each, t

A = torch.ops.aten
_X = t(2, 12, 5)

CASES = [
    case("view", lambda x: x.view(2, 3, 4, 5), _X),
    case("view of all", lambda x: x.view(-1), _X),
    case("view across", lambda x: x.reshape(2, 5, 12), _X),
    case("view unequal", lambda x: x.reshape(8, 15), _X),
    case("view of one", lambda x: x.view(1, 2, 12, 1, 5), _X),
    case("view dtype", lambda x: x.view(torch.int64), _X.double()),
    case("reshape", lambda x: x.mT.reshape(2, 5, 3, 4), _X),
    case("heads", lambda x: x.view(2, 5, 3, 4).transpose(1, 2).reshape(6, 5, 4), t(2, 5, 12)),
    case("channel shuffle", lambda x: x.view(2, 3, 4, 5).transpose(1, 2).flatten(1, 2) + x, _X),
    case(
        "channel shuffle of thirds",
        lambda x: x.view(2, 3, 3).mT.flatten(1).split([4, 5], 1),
        t(2, 9),
    ),
    case(
        "patch merging",
        lambda x: x.view(2, 2, 3, 2, 4, 5).permute(0, 2, 4, 1, 3, 5).flatten(3),
        t(2, 6, 8, 5),
    ),
    case("unsafe_view", lambda x: A._unsafe_view(x, [2, 60]), _X),
    case("view_copy", lambda x: A.view_copy(x, [2, 60]), _X),
    case("flatten", lambda x: x.flatten(1), _X),
    case("flatten of all", torch.flatten, _X),
    case("flatten of a scalar", torch.flatten, t()),
    # Six and five, so that the choice leaves two of each: a single one would be squeezed too.
    case("squeeze", lambda x: x.squeeze(), t(6, 1, 5, 1)),
    case("squeeze one", lambda x: x.squeeze(1), t(2, 1, 5)),
    case("squeeze several", lambda x: x.squeeze((1, -1)), t(2, 1, 5, 1)),
    case("squeeze nothing", lambda x: x.squeeze(1), _X),
    case("unsqueeze", lambda x: x.unsqueeze(1), _X),
    case("unsqueeze last", lambda x: x.unsqueeze(-1), _X),
    case("view_as", lambda x, y: x.view_as(y), _X, t(2, 12, 5)),
    case("view_as across", lambda x, y: x.view_as(y), _X, t(24, 5)),
    case("view_as split", lambda x, y: x.view_as(y), _X, t(2, 3, 4, 5)),
    case("reshape_as", lambda x, y: x.reshape_as(y), _X, t(2, 3, 20)),
    case("unflatten", lambda x: x.unflatten(1, (3, 4)), _X),
    case("unflatten inferred", lambda x: x.unflatten(-2, (-1, 4)), _X),
    case("permute", lambda x: x.permute(2, 0, 1), _X),
    case("permute negative", lambda x: x.permute(-1, 0, -2), _X),
    case("permute_copy", lambda x: A.permute_copy(x, [2, 0, 1]), _X),
    case("transpose", lambda x: x.transpose(1, 2), _X),
    case("transpose negative", lambda x: x.transpose(-1, 0), _X),
    case("transpose_copy", lambda x: A.transpose_copy(x, 1, 2), _X),
    case("swapaxes", lambda x: x.swapaxes(1, 2), _X),
    case("swapdims", lambda x: x.swapdims(0, 2), _X),
    case("t", lambda x: x.t(), t(3, 4)),
    case("t of a vector", lambda x: x.t(), t(3)),
    case("T", lambda x: x.T, t(3, 4)),
    case("numpy_T", lambda x: A.numpy_T(x), t(2, 3, 4)),
    case("mT", lambda x: x.mT, _X),
    case("mH", lambda x: x.mH, _X),
    case("adjoint", lambda x: x.adjoint(), _X),
    case("movedim", lambda x: x.movedim(0, 1), _X),
    case("movedim several", lambda x: x.movedim((0, 1), (-1, 0)), _X),
    case("moveaxis", lambda x: x.moveaxis(-1, 0), _X),
    case("expand", lambda x: x.expand(3, 4, 5), t(3, 1, 5)),
    case("expand kept", lambda x: x.expand(-1, 4, -1), t(3, 1, 5)),
    case("expand in front", lambda x: x.expand(2, 3, 5), t(3, 5)),
    case("expand then add", lambda x, y: x.expand(3, 4, 5) + y, t(3, 1, 5), t(3, 4, 5)),
    case("expand_as", lambda x, y: x.expand_as(y), t(3, 1), t(2, 3, 4)),
    case("expand_copy", lambda x: A.expand_copy(x, [3, 4, 5]), t(3, 1, 5)),
    case("broadcast_to", lambda x: x.broadcast_to(3, 4, 5), t(3, 1, 5)),
    case("broadcast_tensors", lambda x, y: torch.broadcast_tensors(x, y), t(3, 1), t(4)),
    case("repeat", lambda x: x.repeat(1, 3, 2), _X),
    case("repeat in front", lambda x: x.repeat(3, 1, 2, 1), _X),
    case("repeat then view", lambda x: x.repeat(1, 2).view(3, 2, 4) * x.unsqueeze(1), t(3, 4)),
    case("tile", lambda x: x.tile(2, 3), _X),
    case("tile in front", lambda x: x.tile((2, 1, 3)), t(4, 5)),
    case("repeat_interleave", lambda x: x.repeat_interleave(3, 1), _X),
    case("repeat_interleave negative", lambda x: x.repeat_interleave(2, dim=-1), _X),
    case("repeat_interleave flat", lambda x: x.repeat_interleave(2), t(3, 4)),
    case(
        "repeated heads",
        lambda x: x[:, :, None].expand(2, 3, 4, 5, 6).reshape(2, 12, 5, 6),
        t(2, 3, 5, 6),
    ),
    case("meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="ij"), t(3), t(4)),
    case("meshgrid xy", lambda x, y, z: torch.meshgrid(x, y, z, indexing="xy"), t(3), t(4), t(5)),
    case("unfold", lambda x: x.unfold(1, 3, 3), _X),
    case("unfold overlapping", lambda x: x.unfold(-1, 3, 1), _X),
    case("as_strided", lambda x: x.as_strided([2, 11, 5], [60, 5, 1]), _X),
    case("diagonal", lambda x: x.diagonal(0, 1, 2), t(3, 4, 6)),
    case("diagonal of a square", lambda x: x.diagonal(0, 1, 2), t(3, 4, 4)),
    case("diagonal beside", lambda x: x.diagonal(1, 1, 2), t(3, 4, 4)),
    case("diag of a vector", lambda x: torch.diag(x), t(4)),
    case("diag of a vector, beside", lambda x: torch.diag(x, -1), t(4)),
    case("diag of a matrix", lambda x: torch.diag(x), t(4, 6)),
    case("diag of a square", lambda x: torch.diag(x), t(4, 4)),
    case("diag_embed", lambda x: torch.diag_embed(x), t(3, 4)),
    case("diag_embed apart", lambda x: torch.diag_embed(x, 0, 0, -1), t(2, 3, 4)),
    case("diag_embed beside", lambda x: torch.diag_embed(x, 2), t(3, 4)),
    case("view_as_complex", lambda x: torch.view_as_real(torch.view_as_complex(x)), t(3, 4, 2)),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)


class _Squeezed(nn.Module):
    """`squeeze()` without a dimension: whatever has one index vanishes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.wide, self.last = nn.Conv2d(3, 2, 3), nn.Linear(2, 40), nn.Linear(40, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = self.conv(x).mean((2, 3), keepdim=True).squeeze()
        return self.last(self.wide(pooled).relu())


def test_no_axis_comes_down_to_one_index_that_squeeze_would_drop() -> None:
    x = torch.randn(2, 3, 8, 8)
    how = {"allocation": "uniform", "compensate": False}
    small = graphprune.shrink(_Squeezed(), 0.5, "channels", example_inputs=x, **how)
    assert small.conv.out_channels == 2 and small(x).shape == (2, 5)
