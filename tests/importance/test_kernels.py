"""The compiled kernels against plain NumPy, on odd shapes, strides and types."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphprune.importance.kernels import ABSOLUTE, SIGNED, SQUARED, slice_sum, slice_sums

SHAPES = [
    (7,),
    (1, 5),
    (300, 200),
    (257, 131),
    (33, 65, 3, 3),
    (5, 3, 70, 41),
    (40000,),
    (64, 1, 700),
    (3, 50000),
    (768, 512),
]
KINDS = {"absolute": (ABSOLUTE, np.abs), "squared": (SQUARED, np.square), "signed": (SIGNED, None)}


def _tensor(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_sums_over_every_dimension(shape: tuple[int, ...], name: str, dtype: torch.dtype) -> None:
    kind, function = KINDS[name]
    weight = _tensor(*shape).to(dtype)
    plain = weight.double().numpy()
    plain = plain if function is None else function(plain)
    first = slice_sums(weight, kind)
    for dim in range(weight.dim()):
        expected = plain.sum(tuple(d for d in range(weight.dim()) if d != dim))
        np.testing.assert_allclose(slice_sum(weight, dim, kind), expected, 1e-12, 1e-9)
        if dim < 2:
            np.testing.assert_allclose(first[dim], expected, 1e-12, 1e-9)


@pytest.mark.parametrize("kind", [ABSOLUTE, SQUARED, SIGNED])
def test_odd_strides(kind: int) -> None:
    plain = _tensor(400, 600)
    for weight in (plain.t()[::2], plain[:, 3:500:7], plain.view(20, 20, 600).permute(2, 0, 1)):
        for dim in range(weight.dim()):
            expected = slice_sum(weight.contiguous(), dim, kind)
            np.testing.assert_allclose(slice_sum(weight, dim, kind), expected, rtol=1e-12)


def test_types_are_converted_in_blocks_that_add_up() -> None:
    weight = _tensor(1500, 1000).bfloat16()  # more than one block
    expected = weight.double().square()
    rows, columns = slice_sums(weight, SQUARED)
    np.testing.assert_allclose(rows, expected.sum(1).numpy(), rtol=1e-12)
    np.testing.assert_allclose(columns, expected.sum(0).numpy(), rtol=1e-12)


def test_a_large_contiguous_array_is_not_copied() -> None:
    import tracemalloc

    weight = _tensor(1024, 2048)
    slice_sums(weight, SQUARED)
    tracemalloc.start()
    slice_sums(weight, SQUARED)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < weight.numel() * 4 / 16


def test_a_nan_that_signals_is_a_nan_like_others() -> None:
    bits = torch.tensor([[0x7F800001, 0]], dtype=torch.int32)
    (rows, columns) = slice_sums(bits.view(torch.float32), ABSOLUTE)
    assert np.isnan(rows).tolist() == [True]
    assert np.isnan(columns).tolist() == [True, False]
