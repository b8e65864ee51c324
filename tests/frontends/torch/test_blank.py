"""Tensors without values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F

from graphprune.frontends.torch.blank import called
from graphprune.frontends.torch.tagged import Tagged

_IMAGE = torch.empty(2, 4, 6, 6, device="meta").to(memory_format=torch.channels_last)
_ROWS = torch.empty(2, 3, 8, device="meta")


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (F.linear, (_ROWS, nn.Parameter(torch.empty(5, 8, device="meta"))), {}),
        (F.layer_norm, (_ROWS, (8,)), {"eps": 1e-6}),
        (F.batch_norm, (_IMAGE, *torch.empty(2, 4, device="meta")), {}),
        (F.group_norm, (_IMAGE, 2), {}),
        (F.interpolate, (_IMAGE,), {"size": (3, 9), "mode": "bilinear", "align_corners": False}),
        (F.gelu, (_ROWS.half(),), {"approximate": "tanh"}),
        (torch.relu, (_ROWS,), {}),
    ],
)
def test_what_slow_functions_return_is_as_they_return_it(
    func: Callable[..., Any], args: Any, kwargs: Any
) -> None:
    wanted = func(*args, **kwargs)
    for _ in range(2):
        found = called(func, args, kwargs)
        assert found.is_meta and found.dtype == wanted.dtype
        assert found.shape == wanted.shape and found.stride() == wanted.stride()
    first, second = (called(func, args, kwargs) for _ in range(2))
    assert first is not second


def test_fake_tensors_stay_fake() -> None:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    x, weight = fake.from_tensor(torch.randn(2, 8)), torch.zeros(()).expand(5, 8)
    with fake:
        for _ in range(2):
            found = called(F.linear, (x, weight), {})
            assert isinstance(found, FakeTensor) and found.fake_mode is fake
            assert found.shape == (2, 5) and found.device.type == "cpu"


def test_tensors_with_values_keep_them() -> None:
    x, weight = torch.randn(2, 8), torch.randn(5, 8)
    assert torch.equal(called(F.linear, (x, weight), {}), F.linear(x, weight))


def test_what_does_not_fit_is_an_error_each_time() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError):
            called(F.layer_norm, (_ROWS, (7,)), {})


def test_integers_that_remember_their_place_are_not_compared() -> None:
    width = Tagged(8)
    width.holder, width.place, width.unequal = {}, ("", "width", None), []
    for _ in range(2):
        assert called(F.layer_norm, (_ROWS, (width,)), {}).shape == _ROWS.shape
    assert not width.unequal
