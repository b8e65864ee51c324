"""Constructors: tensors made of nothing, whose sizes follow whoever uses them."""

from __future__ import annotations

from graphprune.core.effect import Dims
from graphprune.rules.registry import axis_rule
from graphprune.rules.site import Site

_FILLED = "zeros ones full new_zeros new_ones new_full"
_BLANK = "empty new_empty empty_permuted"
_DRAWN = "rand randn randint"
_COUNTED = """
    arange range linspace logspace hann_window hamming_window blackman_window bartlett_window
    kaiser_window tril_indices triu_indices fft_fftfreq fft_rfftfreq
"""
_STRIDED = "empty_strided new_empty_strided"


@axis_rule(*(f"aten.{name}" for name in _BLANK.split()), blank=True)
@axis_rule(
    *(f"aten.{name}" for name in _DRAWN.split()), "RandomNormal", "RandomUniform", random=True
)
@axis_rule(*(f"aten.{name}" for name in _FILLED.split()), "ConstantOfShape")
def filled(op: Site) -> list[Dims]:
    """Every element alike: any index may go."""
    dims = op.fresh()
    for attr in ("size", "shape", "input"):
        op.resize(attr, list(dims))
    return [dims]


@axis_rule(*(f"aten.{name}" for name in _STRIDED.split()), blank=True)
@axis_rule("aten.randperm", random=True)
@axis_rule(
    *(f"aten.{name}" for name in _COUNTED.split()),
    *"Range HannWindow HammingWindow BlackmanWindow".split(),
    "values that follow from the sizes of inputs",
)
def counted(op: Site) -> list[Dims]:
    """Each element tells its own position (or strides do), so the length is fixed."""
    return [op.fresh(why="positions made")]


@axis_rule("aten.eye")
def identity(op: Site) -> list[Dims]:
    """Of a square the same indices can go from both dimensions, and an identity is left."""
    rows, columns = op.out_shape()
    if rows != columns:
        return [op.fresh(why="positions made")]
    side = op.fresh()[0]
    op.resize("n", side)
    op.resize("m", side)
    return [[side, side]]


@axis_rule("aten.scalar_tensor")
def scalar(op: Site) -> list[Dims]:
    """Scalars made of a number."""
    return [op.fresh(i) for i in range(len(op.op.outputs))]
