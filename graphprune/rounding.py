"""Weights in few bits: what rounding them alone costs a model, and what it saves.

A matrix or kernel of b bits holds whole numbers of [-(2^(b-1) - 1), 2^(b-1) - 1], times one scale
for each output. All else, and every activation, stays as it is: `quantise` makes int8 of these too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch

from graphprune.core.cuts import Cuts, narrow
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.core.program import Expressed, Lowered, Program
from graphprune.engine.tensors import cut_tensor
from graphprune.passes.couple import couple
from graphprune.pipeline import Work
from graphprune.report.sweep import FLOAT
from graphprune.rules.readings import Reading, reading

LEAST, MOST = 2, 16
"""Bits that weights may be rounded to."""

_SCALE_BYTES = 4


@dataclass
class Small:
    """A smaller model whose weights can be read and written.

    Attributes:
        program: The captured model that it was made of, or itself, captured anew.
        deps: The analysis of that.
        expressed: What was chosen.
        lowered: The smaller model.
        solved: Weights that make up for what was removed.
    """

    program: Program
    deps: Dependencies
    expressed: Expressed
    lowered: Lowered
    solved: Mapping[Value, torch.Tensor]

    @property
    def cuts(self) -> Cuts:
        """The choice."""
        return self.expressed.cuts

    def write(self, values: Mapping[Value, torch.Tensor]) -> Lowered:
        """The smaller model with other weights."""
        self.lowered = self.program.write(self.expressed, self.lowered, values)
        return self.lowered


def of_choice(made: Work) -> Small:
    """The smaller model of some work, as a choice of the original's indices."""
    solved = {} if made.solved is None else made.solved.values
    return Small(made.program, made.deps, made.expressed, made.lowered, solved)


def reopened(made: Work) -> Small:
    """The smaller model of some work, captured anew: its layers are what they have become."""
    program, _ = made.program.reopened(made.lowered)
    deps = couple(program.graph)
    expressed = program.express(narrow(deps, {}))
    return Small(program, deps, expressed, program.lower(expressed), {})


def rounded(small: Small, bits: int) -> dict[Value, torch.Tensor]:
    """The matrices and kernels of a smaller model, rounded.

    Args:
        small: The smaller model.
        bits: Bits of each number, from `LEAST` to `MOST`.
    """
    most = 2 ** (bits - 1) - 1
    out = {}
    for value, dims in _matrices(small.deps):
        tensor = small.solved.get(value)
        if tensor is None:
            tensor = cut_tensor(value.tensor.detach(), small.cuts.weights.get(value, ()))
        scale = tensor.abs().amax(dims, keepdim=True) / most
        whole = torch.where(scale > 0, tensor / scale, tensor).round().clamp(-most, most)
        out[value] = whole * scale
    return out


def bytes_of(small: Small, bits: int) -> int:
    """Bytes of all parameters of a smaller model with weights of so many bits."""
    few = {} if bits == FLOAT else dict(_matrices(small.deps))
    total = 0.0
    for value in small.deps.source.parameters():
        shape = _shape(small, value)
        if value in few:
            scales = prod(n for dim, n in enumerate(shape) if dim not in few[value])
            total += prod(shape) * bits / 8 + scales * _SCALE_BYTES
        else:
            total += prod(shape) * value.tensor.element_size()
    return round(total)


def _matrices(deps: Dependencies) -> Iterator[tuple[Value, list[int]]]:
    """Stored weights of linear operations, and their dimensions that share a scale."""
    seen = set()
    for op in deps.source.ops:
        read = reading(op)
        if not isinstance(read, Reading) or read.weight in seen or not read.weight.is_weight:
            continue
        value = read.weight
        if value.kind == "parameter" and value.tensor.is_floating_point():
            seen.add(value)
            yield value, [read.inner, *(range(2, len(value.shape)) if read.windows else ())]


def _shape(small: Small, value: Value) -> list[int]:
    """The narrowed shape of a weight."""
    kept = small.cuts.weights.get(value, [None] * len(value.shape))
    return [n if at is None else len(at) for n, at in zip(value.shape, kept, strict=True)]
