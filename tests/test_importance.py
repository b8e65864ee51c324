"""The compiled kernels against plain NumPy, on odd shapes, strides and types."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphprune.importance import CRITERIA

SHAPES = [
    (7,),
    (1, 5),
    (300, 200),
    (257, 131),
    (33, 65, 3, 3),
    (5, 3, 70, 41),
    (40000,),
    (64, 1, 700),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["l1", "l2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_sums_over_every_dimension(shape: tuple[int, ...], name: str, dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    plain = weight.double().numpy()
    plain = plain**2 if name == "l2" else np.abs(plain)
    for dim in range(weight.dim()):
        others = tuple(d for d in range(weight.dim()) if d != dim)
        np.testing.assert_allclose(CRITERIA[name](weight, dim), plain.sum(others), rtol=1e-12)


def test_odd_strides() -> None:
    weight = torch.randn(400, 600).t()[::2]
    expected = weight.double().square().sum(1).numpy()
    np.testing.assert_allclose(CRITERIA["l2"](weight, 0), expected, rtol=1e-12)
    np.testing.assert_allclose(
        CRITERIA["l2"](weight, 1), weight.double().square().sum(0).numpy(), rtol=1e-12
    )


def test_a_changed_weight_is_scored_anew() -> None:
    weight = torch.randn(300, 200)
    before = CRITERIA["l2"](weight, 0)
    weight.mul_(2)
    np.testing.assert_allclose(CRITERIA["l2"](weight, 0), 4 * before, rtol=1e-6)
