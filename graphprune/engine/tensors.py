"""Tensors: in another precision, cut to what is kept, compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

_PIECE = 1 << 20  # numbers that are compared at once: a few megabytes


def as_dtype(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A floating-point or complex tensor in the given precision; any other as it is."""
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def cut_tensor(tensor: torch.Tensor, kept: Sequence[Any]) -> torch.Tensor:
    """The slices of a tensor at the kept positions of each dimension (None: all)."""
    out = tensor
    for dim, indices in enumerate(kept):
        if indices is not None:
            picked = torch.as_tensor(indices, device=tensor.device)
            out = out.index_select(dim, picked)
    return out


def shapes_of(tensors: Sequence[torch.Tensor]) -> str:
    """Shapes and types in words: `2 x 3 x 224 x 224 float32, 2 x 16 int64`."""
    return ", ".join(
        f"{' x '.join(map(str, x.shape)) or 'a number'} {str(x.dtype).removeprefix('torch.')}"
        for x in tensors
    )


def along(points: torch.Tensor, dim: int, rank: int) -> torch.Tensor:
    """Zero points, or scales, so that they broadcast against what they belong to."""
    if points.numel() == 1:
        return points.reshape(())
    if points.dim() > 1:  # of several dimensions, those in between left out
        middle = [1] * (rank - points.dim())
        return points.reshape([points.shape[0], *middle, *points.shape[1:]])
    return points.reshape([-1 if at == dim else 1 for at in range(rank)])


def _parts(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A tensor in pieces, so that what is computed of it needs little memory at once."""
    return torch.split(tensor.reshape(-1), _PIECE) if tensor.numel() > _PIECE else (tensor,)


def _order(number: float) -> tuple[bool, float]:
    """NaN is the largest of all, as it is to PyTorch."""
    return math.isnan(number), number


def difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Largest absolute difference, relative to the largest expected value.

    Infinite where shapes differ, or where one of the two is not finite and the other differs.
    """
    if expected.shape != found.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(expected, found) else float("inf")
    parts = list(zip(_parts(expected), _parts(found), strict=True))
    gap = max((float((a - b).abs().max()) for a, b in parts), key=_order)
    scale = max((float(a.abs().max()) for a, _ in parts), key=_order)
    if not math.isfinite(gap + scale):
        same = (expected == found) | (expected.isnan() & found.isnan())
        finite = expected[expected.isfinite()]
        gap = float(torch.where(same, 0.0, (expected - found).abs().double()).max())
        scale = float(finite.abs().max()) if finite.numel() else 1.0
    return gap / max(scale, 1e-12) if math.isfinite(gap) else float("inf")
