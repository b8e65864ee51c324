"""Integer attributes of the caller's modules that hold lengths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from graphprune.core.axes import Dim, leaves, length
from graphprune.core.cuts import Cuts
from graphprune.core.indices import kept_length
from graphprune.frontends.torch.lift import TorchProgram
from graphprune.frontends.torch.tagged import Place, container, put

_WIDTH = re.compile(r"dim|channels|chs|features|hidden_size|planes|embed")
_COUNT = re.compile(r"head|group|kv")


def apply_edits(model: nn.Module, edits: Mapping[Place, int]) -> None:
    """Set attributes, or elements of tuple and list attributes."""
    for place, value in edits.items():
        put(container(model, place), place, value)


def described(program: TorchProgram, cuts: Cuts) -> dict[Place, int]:
    """Attributes that agree with a length of the module's own weights, before and after.

    An attribute is taken for a length if its name reads like one and every dimension (for a
    number of heads or groups: every factor) of that length, among the weights of the module
    and its children, has the same new length.
    """
    edits: dict[Place, int] = {}
    counts = {axis: len(kept) for axis, kept in cuts.keep.items()}
    for path, module in program.model.named_modules():
        if type(module).__module__.startswith("torch.nn."):
            continue
        names = [
            (attr, held)
            for attr, held in module.__dict__.items()
            if type(held) is int and held > 1 and (_WIDTH.search(attr) or _COUNT.search(attr))
        ]
        if not names:
            continue
        dims = list(_near(program, cuts, path))
        for attr, held in names:
            factors = bool(_COUNT.search(attr)) and not attr.endswith(("dim", "size"))
            found = {
                kept_length(part, counts)
                for dim in dims
                for part in _parts(dim, factors)
                if length(part) == held
            }
            if len(found) == 1 and found != {held}:
                edits[path, attr, None] = found.pop()
    return edits


def _near(program: TorchProgram, cuts: Cuts, path: str) -> Iterator[Dim]:
    """Dimensions of the weights that a module or one of its children holds."""
    prefix = f"{path}." if path else ""
    for name, value in program.graph.weights.items():
        if name.startswith(prefix) and name[len(prefix) :].count(".") <= 1:
            yield from cuts.deps.dims[value]


def _parts(dim: Dim, factors: bool) -> list[Any]:
    return [(axis,) for axis in leaves(dim)] if factors else [dim]
