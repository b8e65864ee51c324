"""Concatenation, stacking, splitting, slicing and padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.rules.cases import Case, case, check, each, t

A = torch.ops.aten
_X = t(2, 12, 5)


def _sliced(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 2:5] += 1
    y[:, -3:] = 0
    return y * 2


CASES = [
    case("cat", lambda x, y: torch.cat([x, y], 1), t(2, 3, 5), t(2, 4, 5)),
    case("cat negative", lambda x, y, z: torch.cat([x, y, z], -1), t(2, 3), t(2, 4), t(2, 6)),
    case("cat of itself", lambda x: torch.cat([x, x], 1), t(2, 3, 5)),
    case("cat of itself, split", lambda x: torch.cat([x, x], 1).split([2, 4], 1), t(2, 3, 5)),
    case("cat of halves swapped", lambda x: torch.cat([x[:, 6:], x[:, :6]], 1) + x, _X),
    case("cat of an empty one", lambda x: torch.cat([torch.zeros(0), x], 0), t(3, 5)),
    case("concat", lambda x, y: A.concat([x, y], 1), t(2, 3), t(2, 4)),
    case("concatenate", lambda x, y: A.concatenate([x, y], 1), t(2, 3), t(2, 4)),
    case(
        "cat then channel shuffle",
        lambda x, y: torch.cat([x, y], 1).view(3, 2, 5).mT.flatten(1),
        t(3, 4),
        t(3, 6),
    ),
    case("stack", lambda x, y: torch.stack([x, y], 1), t(2, 3), t(2, 3)),
    case("stack last", lambda x, y: torch.stack([x, y], -1), t(2, 3), t(2, 3)),
    case("stack of itself", lambda x: torch.stack([x, x, x], -1).flatten(1), t(2, 4)),
    case("hstack", lambda x, y: torch.hstack([x, y]), t(2, 3), t(2, 4)),
    case("vstack", lambda x, y: torch.vstack([x, y]), t(3, 4), t(2, 4)),
    case("split", lambda x: x.split(5, 1), _X),
    case("split even", lambda x: x.split(4, 1), _X),
    case("split by sizes", lambda x: x.split([3, 4, 5], 1), _X),
    case("split negative", lambda x: x.split([1, 11], -2), _X),
    case("split, halves multiplied", lambda x: x[:, :6] * x.split(6, 1)[1], _X),
    case("chunk", lambda x: x.chunk(3, 1), _X),
    case("chunk unequal", lambda x: x.chunk(5, 1), _X),
    case("chunk, product", lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid(), _X),
    case("tensor_split", lambda x: x.tensor_split(5, 1), _X),
    case("tensor_split at", lambda x: x.tensor_split([2, 7], 1), _X),
    case("unsafe_chunk", lambda x: x.unsafe_chunk(3, 1), _X),
    case("unsafe_split", lambda x: x.unsafe_split(5, 1), _X),
    case("unsafe_split by sizes", lambda x: x.unsafe_split_with_sizes([5, 7], 1), _X),
    case("split_with_sizes", lambda x: A.split_with_sizes(x, [5, 7], 1), _X),
    case("split_with_sizes_copy", lambda x: A.split_with_sizes_copy(x, [5, 7], 1), _X),
    case("unbind", lambda x: x.unbind(1), t(3, 4, 5)),
    case("unbind, stack", lambda x: torch.stack(x.unbind(2)[::-1], 2), t(3, 4, 5)),
    case("qkv", lambda x: x.view(2, 5, 3, 4).permute(2, 0, 1, 3).unbind(0), t(2, 5, 12)),
    case("select", lambda x: x[:, 3], _X),
    case("select first", lambda x: x[:, 0], _X),
    case("select last", lambda x: x[:, -1], _X),
    case("select negative", lambda x: x[:, -4], _X),
    case("slice", lambda x: x[:, 3:8], _X),
    case("slice head", lambda x: x[:, :4], _X),
    case("slice tail", lambda x: x[:, 4:], _X),
    case("slice negative tail", lambda x: x[:, -4:], _X),
    case("slice negative head", lambda x: x[:, :-4], _X),
    case("slice negative both", lambda x: x[:, -7:-3], _X),
    case("slice past the end", lambda x: x[:, 3:100], _X),
    case("slice to the end", lambda x: x[:, 0:12], _X),
    case("slice of nothing", lambda x: x[:, 5:5], _X),
    case("slice by 2", lambda x: x[:, ::2], _X),
    case("slice by 3 from 1", lambda x: x[:, 1::3], _X),
    case("slice by 2 up to", lambda x: x[:, 1:9:2], _X),
    case("slice by 5", lambda x: x[:, ::5], _X),
    case(
        "both parities",
        lambda x: torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2),
        t(2, 5, 12),
    ),
    case("rotate halves", lambda x: torch.cat([-x[..., 6:], x[..., :6]], -1) + x, t(2, 5, 12)),
    case("first, then all", lambda x: x[:, :4].relu() + x[:, 4:8] * x[:, 8:], _X),
    case("slices assigned", _sliced, _X),
    case("narrow", lambda x: x.narrow(1, 3, 5), _X),
    case("narrow to the end", lambda x: x.narrow(1, 3, 9), _X),
    case("narrow head", lambda x: x.narrow(1, 0, 9), _X),
    case("narrow negative", lambda x: x.narrow(1, -5, 3), _X),
    case("pad", lambda x: F.pad(x, [0, 0, 1, 2]), _X),
    case("pad channels", lambda x: F.pad(x, [0, 0, 0, 0, 2, 3]), t(2, 4, 5, 7)),
    case("pad two", lambda x: F.pad(x, [1, 3, 2, 4]), _X),
    case("pad with ones", lambda x: F.pad(x, [0, 0, 3, 2], value=1.0), _X),
    case("pad negative", lambda x: F.pad(x, [0, 0, -2, -3]), _X),
    case("pad and crop", lambda x: F.pad(x, [0, 0, -2, 3]), _X),
    case("pad reflecting", lambda x: F.pad(x, [2, 1], mode="reflect"), _X),
    case("pad circular", lambda x: F.pad(x, [2, 1], mode="circular"), _X),
    case("constant_pad_nd", lambda x: A.constant_pad_nd(x, [1, 2, 3, 4], 0.5), _X),
    case("shortcut padded", lambda x, y: F.pad(x, [0, 0, 2, 2]) + y, t(3, 4, 5), t(3, 8, 5)),
    case("slice_scatter", lambda x, y: torch.slice_scatter(x, y, 1, 3, 7), _X, t(2, 4, 5)),
    case("slice_scatter tail", lambda x, y: torch.slice_scatter(x, y, 1, -4), _X, t(2, 4, 5)),
    case("slice_scatter by 2", lambda x, y: torch.slice_scatter(x, y, 1, 0, 12, 2), _X, t(2, 6, 5)),
    case("select_scatter", lambda x, y: torch.select_scatter(x, y, 1, 3), _X, t(2, 5)),
    case("select_scatter negative", lambda x, y: torch.select_scatter(x, y, 1, -3), _X, t(2, 5)),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)
