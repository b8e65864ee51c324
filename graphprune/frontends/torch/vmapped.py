"""vmapped: what `torch.vmap` maps, one by one while it is captured.

Inside `torch.vmap` operations see tensors that lack the mapped dimension, and cannot be run one by
one. For every index of that dimension the function gives the same as when it is called with that
index alone, so that a capture calls it so and stacks what it returns. The model itself goes on
mapping.

Example:
    torch.vmap(lambda row: row @ w)(x) is read as torch.stack([x[0] @ w, x[1] @ w, ...]).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._functorch import apis, vmap
from torch.utils import _pytree as pytree

_apis: Any = apis
_vmap: Any = vmap  # both are PyTorch's own affair, without types
_MOST = 256  # indices: further ones would make a graph of many thousand operations


@contextmanager
def one_by_one() -> Iterator[None]:
    """Let `torch.vmap` call its function once for each index.

    More than 256 of them are mapped as ever, and the capture refuses them by name.
    """
    whole = _apis.vmap_impl

    def called(
        function: Callable[..., Any],
        in_dims: Any,
        out_dims: Any,
        randomness: str,
        chunk_size: int | None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        number, dims, held, spec = _vmap._process_batched_inputs(in_dims, args, function)
        if number > _MOST:
            return whole(function, in_dims, out_dims, randomness, chunk_size, *args, **kwargs)
        found: list[list[Any]] = []
        for i in range(number):
            taken = [x if at is None else x.select(at, i) for x, at in zip(held, dims, strict=True)]
            result = function(*pytree.tree_unflatten(taken, spec), **kwargs)
            leaves, shape = pytree.tree_flatten(result)
            found.append(leaves)
        places = _vmap._broadcast_to_and_flatten(out_dims, shape)
        stacked = [
            same[0] if at is None else torch.stack(same, at)
            for same, at in zip(zip(*found, strict=True), places, strict=True)
        ]
        return pytree.tree_unflatten(stacked, shape)

    _apis.vmap_impl = called
    try:
        yield
    finally:
        _apis.vmap_impl = whole
