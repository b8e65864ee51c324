"""Look-ups and assignments by position."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.rules.cases import Case, below, case, check, each, p, t

A = torch.ops.aten
_X = t(3, 6, 5)


def _put(x: torch.Tensor, i: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, i] = v
    return y


# `missed` where values are added: to add zero is to leave out.
CASES = [
    case("multinomial", lambda x: x.multinomial(2), p(3, 5)),
    case("embedding", lambda i, w: F.embedding(i, w), below(7, 2, 4), t(7, 5)),
    *(
        case(
            f"embedding_bag {mode}",
            lambda i, w, m=mode: F.embedding_bag(i, w, torch.tensor([0, 3, 4]), mode=m),
            below(7, 6),
            t(7, 5),
        )
        for mode in ("sum", "mean", "max")
    ),
    case("embedding bags", lambda i, w: F.embedding_bag(i, w), below(7, 4, 3), t(7, 5)),
    case(
        "embedding_bag underneath",
        lambda i, w: A._embedding_bag(w, i, torch.tensor([0, 3]))[0],
        below(7, 6),
        t(7, 5),
    ),
    case(
        "embedding_bag forward only",
        lambda i, w: A._embedding_bag_forward_only(w, i, torch.tensor([0, 3]))[0],
        below(7, 6),
        t(7, 5),
    ),
    case("embedding padded", lambda i, w: F.embedding(i, w, padding_idx=0), below(7, 4), t(7, 5)),
    case("index", lambda x, i: x[i], _X, below(3, 4)),
    case("index middle", lambda x, i: x[:, i], _X, below(6, 4)),
    case("index matrix", lambda x, i: x[:, i], _X, below(6, 2, 4)),
    case("index two", lambda x, i, j: x[i, j], _X, below(3, 4), below(6, 4)),
    case("index apart", lambda x, i, j: x[i, :, j], _X, below(3, 4), below(5, 4)),
    case("index broadcast", lambda x, i, j: x[:, i, j], _X, below(6, 4, 1), below(5, 2)),
    case(
        "bias table",
        lambda w, i: w[i.view(-1)].view(4, 4, 3).permute(2, 0, 1),
        t(9, 3),
        below(9, 4, 4),
    ),
    case("index_put", _put, _X, below(6, 4), t(3, 4, 5)),
    case("index_put of a scalar", lambda x, i: _put(x, i, torch.tensor(2.0)), _X, below(6, 4)),
    case(
        "index_put accumulate",
        lambda x, i, v: x.index_put((i,), v, True),
        _X,
        below(3, 4),
        t(4, 6, 5),
        missed=True,
    ),
    case("index_put mask", lambda x, m: x.index_put((m,), torch.tensor(0.0)), _X, t(3, 6) > 0),
    case("index_select", lambda x, i: x.index_select(1, i), _X, below(6, 4)),
    case(
        "index_add", lambda x, i, v: x.index_add(1, i, v), _X, below(6, 4), t(3, 4, 5), missed=True
    ),
    case(
        "index_copy",
        lambda x, i, v: x.index_copy(1, i, v),
        _X,
        torch.tensor([4, 0, 2, 1]),
        t(3, 4, 5),
    ),
    case("index_fill", lambda x, i: x.index_fill(1, i, 0.5), _X, below(6, 4)),
    case("take", lambda x, i: x.take(i), t(3, 5), below(15, 2, 4)),
    case("gather", lambda x, i: x.gather(1, i), _X, below(6, 3, 4, 5)),
    case("gather alike", lambda x, i: x.gather(1, i), _X, below(6, 3, 6, 5)),
    case("gather a corner", lambda x, i: x.gather(1, i), _X, below(6, 2, 4, 5)),
    case("take_along_dim", lambda x, i: x.take_along_dim(i, 1), _X, below(6, 3, 4, 5)),
    case("take_along_dim broadcast", lambda x, i: x.take_along_dim(i, 1), _X, below(6, 1, 4, 5)),
    case("take_along_dim flat", lambda x, i: x.take_along_dim(i), _X, below(90, 4)),
    case("scatter", lambda x, i, v: x.scatter(1, i, v), _X, below(6, 3, 1, 5), t(3, 1, 5)),
    case("scatter of a scalar", lambda x, i: x.scatter(1, i, 0.5), _X, below(6, 3, 4, 5)),
    case("scatter a corner", lambda x, i, v: x.scatter(1, i, v), _X, below(6, 2, 1, 5), t(3, 4, 5)),
    case(
        "scatter_add",
        lambda x, i, v: x.scatter_add(1, i, v),
        _X,
        below(6, 3, 4, 5),
        t(3, 4, 5),
        missed=True,
    ),
    case(
        "scatter_reduce",
        lambda x, i, v: x.scatter_reduce(1, i, v, "sum"),
        _X,
        below(6, 3, 4, 5),
        t(3, 4, 5),
        missed=True,
    ),
    case(
        "masked_scatter",
        lambda x, m, v: x.masked_scatter(m, v),
        _X,
        t(6, 5) > 0,
        t(90),
        missed=True,
    ),
    case("one_hot", lambda i: F.one_hot(i, 7) * 1.0, below(7, 3, 4)),
    case("bucketize", lambda x, b: torch.bucketize(x, b) + x, t(3, 4), torch.arange(5.0)),
    case("searchsorted", lambda b, x: torch.searchsorted(b, x) + x, torch.arange(5.0), t(3, 4)),
    case("topk", lambda x: x.topk(3, 1), _X),
    case("topk negative", lambda x: x.topk(2, -2), _X),
    case("topk of all", lambda x: x.topk(5), _X),
]


@each(CASES)
def test_rule(case: Case) -> None:
    check(case)
