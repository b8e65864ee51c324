"""pictures: which pictures an ONNX model reads, as far as the file and its weights tell."""

from __future__ import annotations

from typing import Any

from graphprune.frontends.onnx.fixed import settled
from graphprune.frontends.onnx.model import read_model
from graphprune.frontends.onnx.sizes import COLOURS, is_static

_RANK = 4


def picture_of(model: Any) -> tuple[tuple[int, int] | None, bool]:
    """Height and width of the first input of four dimensions, and whether colours come last.

    Returns:
        The size, None where the file leaves it open and no weight settles it; and the order.

    Raises:
        LiftError: There is no such file, or it is not an ONNX file.
    """
    source = read_model(model)
    for item in source.inputs:
        dims = item.type.tensor_type.shape.dim
        if len(dims) != _RANK:
            continue
        stated = [dim.dim_value if is_static(dim) else 0 for dim in dims]
        known = {} if all(stated) else settled(source)
        sizes = [size or known.get((item.name, at), 0) for at, size in enumerate(stated)]
        last = 0 < sizes[-1] <= COLOURS and not 0 < sizes[1] <= COLOURS
        height, width = sizes[1:3] if last else sizes[2:]
        return (height, width) if height and width else None, last
    return None, False
