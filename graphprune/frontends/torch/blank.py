"""Tensors that have shapes and no values, for passes that only follow what code does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.tagged import Tagged

# Functions that PyTorch follows in Python where tensors have no values, a millisecond a call; each
# makes one new tensor.
_SLOW = frozenset(
    {
        *(F.linear, F.batch_norm, F.layer_norm, F.group_norm, F.interpolate),
        *(F.grid_sample, F.gelu),
    }
)


def without_values(
    captured: CapturedModule,
) -> tuple[AbstractContextManager[Any], Callable[[torch.Tensor], torch.Tensor]]:
    """What makes new tensors such that have no values, and what turns others into such.

    Meta tensors take a third of the time of fake ones, which know their device, and what may be
    known of values that the code looks at.

    Args:
        captured: The captured model, which tells whether its code runs on meta tensors.
    """
    if captured.on_meta:
        return torch.device("meta"), lambda x: x.detach().to("meta")
    fake = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    return fake, lambda x: fake.from_tensor(x, static_shapes=True)


class _Blank(NamedTuple):
    """What is known of a tensor without values."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def made(self) -> torch.Tensor:
        """Another such tensor, in a pass that makes none with values."""
        shape, stride, dtype, device = self
        return torch.empty_strided(shape, stride, dtype=dtype, device=device)


def called(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """What a torch function returns; slow ones run once for all tensors of a shape without values.

    Args:
        func: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
    """
    if func not in _SLOW:
        return func(*args, **kwargs)
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    blank = any(x.is_meta or isinstance(x, FakeTensor) for x in tensors)
    if not blank or any(type(n) is not int for x in tensors for n in x.shape):
        return func(*args, **kwargs)
    _SPECS.setdefault(text := repr(spec), spec)
    return _result(func, text, tuple(map(_described, leaves))).made()


def _described(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return _Blank(tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device)
    return int(leaf) if isinstance(leaf, Tagged) else leaf


_SPECS: dict[str, pytree.TreeSpec] = {}  # by their text: in PyTorch 2.7 they have no hash


@lru_cache(maxsize=4096)
def _result(func: Callable[..., Any], text: str, leaves: tuple[Any, ...]) -> _Blank:
    spec = _SPECS[text]
    given = [leaf.made() if isinstance(leaf, _Blank) else leaf for leaf in leaves]
    args, kwargs = pytree.tree_unflatten(given, spec)
    with torch.no_grad():
        found: _Blank = _described(func(*args, **kwargs))
    return found
