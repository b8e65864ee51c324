"""Fourier transforms: what they run along becomes frequencies, all else stays."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

_SINGLE = "fft ifft rfft irfft hfft ihfft"
_SEVERAL = "fft2 ifft2 rfft2 irfft2 hfft2 ihfft2 fftn ifftn rfftn irfftn hfftn ihfftn"
_INNER = "_fft_c2c _fft_c2r _fft_r2c"  # what the others are made of; they name their dimensions


@axis_rule(
    *(f"aten.fft_{name}" for name in [*_SINGLE.split(), *_SEVERAL.split()]),
    *(f"aten.{name}" for name in _INNER.split()),
)
def transform(op: Site) -> list[Dims]:
    """Transforms along some dimensions: all of them, or the last of two, where none is named."""
    two = (-2, -1) if op.op.type.endswith("2") else None
    sizes = op.attr("s")
    last = None if sizes is None else range(-len(sizes), 0)
    default = -1 if op.op.type.removeprefix("aten.fft_") in _SINGLE.split() else two or last
    at = _named(op, default)
    dims, made = list(op.dims()), op.fresh(why="frequencies")
    op.lock([dims[i] for i in at], "transformed")
    for i in at:
        dims[i] = made[i]
    return [dims]


@axis_rule("DFT")
def parts_behind(op: Site) -> list[Dims]:
    """ONNX: along one dimension; real and imaginary parts stand along the last."""
    dims, made = list(op.dims()), op.fresh(why="frequencies")
    for at in (op.axis("axis", default=-2), -1):
        op.lock([dims[at]], "transformed")
        dims[at] = made[at]
    return [dims]


@axis_rule("aten.fft_fftshift", "aten.fft_ifftshift")
def shift(op: Site) -> list[Dims]:
    """Rolls the middle to the front or back, along all dimensions where none is named."""
    dims = op.dims()
    op.lock([dims[i] for i in _named(op)], "order matters")
    return [dims]


def _named(op: Site, default: int | Sequence[int] | None = None) -> Sequence[int]:
    """Dimensions that an operation names; all of them where there is no default either."""
    given = op.attr("dim", default=default)
    if given is None:
        return range(op.rank())
    return [given] if isinstance(given, int) else given


@axis_rule("aten.stft", "aten.istft")
def short_time(op: Site) -> list[Dims]:
    """Short-time transform: samples become frequencies and frames, or the reverse."""
    dims = op.dims()
    batch = op.rank() - 1 if op.op.type == "aten.stft" else op.rank() - 2
    op.lock([*dims[batch:], *(d for other in op.operands()[1:] for d in other)], "transformed")
    return [[*dims[:batch], *op.fresh(why="frequencies")[batch:]]]


@axis_rule("aten.real", "aten.imag", "aten.complex", "aten.polar", "aten.angle")
def complex_numbers(op: Site) -> list[Dims]:
    """Parts of complex numbers, and numbers of parts."""
    return [op.broadcast(op.operands())]
