"""Weights in few bits: what rounding them alone costs a model, and what it saves.

A matrix or kernel of b bits holds whole numbers of [-(2^(b-1) - 1), 2^(b-1) - 1], times one scale
for each output. All else, and every activation, stays as it is: `quantise` makes int8 of these too.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch

from graphprune.core.graph import Value
from graphprune.engine.tensors import cut_tensor
from graphprune.pipeline import Work
from graphprune.report.sweep import FLOAT
from graphprune.rules.readings import Reading, reading

LEAST, MOST = 2, 16
"""Bits that weights may be rounded to."""

_SCALE_BYTES = 4


def rounded(made: Work, bits: int) -> dict[Value, torch.Tensor]:
    """The matrices and kernels of a smaller model, rounded.

    Args:
        made: The work with the smaller model in it.
        bits: Bits of each number, from `LEAST` to `MOST`.
    """
    solved = {} if made.solved is None else made.solved.values
    most = 2 ** (bits - 1) - 1
    out = {}
    for value, dims in _matrices(made):
        tensor = solved.get(value)
        if tensor is None:
            tensor = cut_tensor(value.tensor.detach(), made.cuts.weights.get(value, ()))
        scale = tensor.abs().amax(dims, keepdim=True) / most
        whole = torch.where(scale > 0, tensor / scale, tensor).round().clamp(-most, most)
        out[value] = whole * scale
    return out


def bytes_of(made: Work, bits: int) -> int:
    """Bytes of all parameters of a smaller model with weights of so many bits."""
    few = {} if bits == FLOAT else dict(_matrices(made))
    total = 0.0
    for value in made.deps.source.parameters():
        shape = _shape(made, value)
        if value in few:
            scales = prod(n for dim, n in enumerate(shape) if dim not in few[value])
            total += prod(shape) * bits / 8 + scales * _SCALE_BYTES
        else:
            total += prod(shape) * value.tensor.element_size()
    return round(total)


def _matrices(made: Work) -> Iterator[tuple[Value, list[int]]]:
    """Stored weights of linear operations, and their dimensions that share a scale."""
    seen = set()
    for op in made.deps.source.ops:
        read = reading(op)
        if not isinstance(read, Reading) or read.weight in seen or not read.weight.is_weight:
            continue
        value = read.weight
        if value.kind == "parameter" and value.tensor.is_floating_point():
            seen.add(value)
            yield value, [read.inner, *(range(2, len(value.shape)) if read.windows else ())]


def _shape(made: Work, value: Value) -> list[int]:
    """The narrowed shape of a weight."""
    kept = made.cuts.weights.get(value, [None] * len(value.shape))
    return [n if at is None else len(at) for n, at in zip(value.shape, kept, strict=True)]
