"""Integer attributes of the caller's modules that hold lengths."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from graphprune.core.axes import Axis, Dim, leaves, length
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Op, Value
from graphprune.core.indices import kept_length
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.tagged import Place, container, put

_WIDTH = re.compile(r"dim|channels|chs|features|hidden_size|planes|embed")
_COUNT = re.compile(r"head|group|kv")
_FIRST, _LAST = re.compile(r"in(_|put|planes|chan)"), re.compile(r"out(_|put|planes|chan)")
_NEAR = 1  # step: weights of the module itself and of its children


def apply_edits(model: nn.Module, edits: Mapping[Place, int]) -> None:
    """Set attributes, or elements of tuple and list attributes."""
    for place, value in edits.items():
        put(container(model, place), place, value)


def described(captured: CapturedModule, cuts: Cuts) -> dict[Place, int]:
    """Attributes that agree with a length of the module's own layers, before and after.

    An attribute is taken for a length if its name reads like one and every dimension (for a
    number of heads or groups: every factor) of that length, among the weights of the module
    and its children, has the same new length. Where none of these has that length, those further
    below are looked at, and what convolutions take and make; a number of groups is that of the
    convolutions first of all. Where lengths were equal and are so no more, what a name says of
    input or output decides.
    """
    edits: dict[Place, int] = {}
    counts = {axis: len(kept) for axis, kept in cuts.keep.items()}
    convolutions = list(_convolutions(captured))
    weights = _below(captured)
    for path, module in captured.model.named_modules():
        if type(module).__module__.startswith("torch.nn."):
            continue
        names = [
            (attr, held)
            for attr, held in module.__dict__.items()
            if type(held) is int and held > 1 and (_WIDTH.search(attr) or _COUNT.search(attr))
        ]
        if not names:
            continue
        prefix = f"{path}." if path else ""
        below = [op for op in convolutions if f"{op.module}.".startswith(prefix)]
        near = list(_dims(weights, cuts, prefix, _NEAR))
        far = [*_dims(weights, cuts, prefix), *_channels(cuts, below)]
        for attr, held in names:
            factors = bool(_COUNT.search(attr)) and not attr.endswith(("dim", "size"))
            found = _regrouped(cuts, below, held) if factors and "group" in attr else set()
            for dims in (near, far):
                found = found or {
                    kept_length(part, counts)
                    for dim in dims
                    for part in _parts(dim, factors)
                    if length(part) == held
                }
            if len(found) > 1:  # lengths that were equal and are so no more
                found = _end(cuts, below, attr, held, counts)
            if len(found) == 1 and found != {held}:
                edits[path, attr, None] = found.pop()
    return edits


def lengths_held(captured: CapturedModule, cuts: Cuts) -> dict[Place, list[int]]:
    """Integer attributes that have a length of their module's weights which becomes another one.

    Whatever they are called: what such lengths become, in the order of the weights.
    """
    out: dict[Place, list[int]] = {}
    counts = {axis: len(kept) for axis, kept in cuts.keep.items()}
    weights = _below(captured)
    for path, module in captured.model.named_modules():
        if type(module).__module__.startswith("torch.nn."):
            continue
        dims = [*_dims(weights, cuts, f"{path}." if path else "", _NEAR)]
        for attr, held in module.__dict__.items():
            if type(held) is int and held > 1:
                new = dict.fromkeys(kept_length(d, counts) for d in dims if length(d) == held)
                if found := [n for n in new if n != held]:
                    out[path, attr, None] = found
    return out


def _below(captured: CapturedModule) -> dict[str, list[tuple[int, Value]]]:
    """For what the names of weights begin with: the weights, and how many steps below they are."""
    out: dict[str, list[tuple[int, Value]]] = defaultdict(list)
    for name, value in captured.graph.weights.items():
        path, steps = "", name.count(".")
        for part in name.split("."):
            out[path].append((steps, value))
            path, steps = f"{path}{part}.", steps - 1
    return out


def _dims(
    weights: Mapping[str, Sequence[tuple[int, Value]]],
    cuts: Cuts,
    prefix: str,
    most: int | None = None,
) -> Iterator[Dim]:
    """Dimensions of the weights below a module, or of those that are that many steps below."""
    for steps, value in weights.get(prefix, ()):
        if most is None or steps <= most:
            yield from cuts.deps.dims[value]


def _convolutions(captured: CapturedModule) -> Iterator[Op]:
    """The operations of convolution layers."""
    modules = dict(captured.model.named_modules(remove_duplicate=False))
    return (op for op in captured.graph.ops if isinstance(modules.get(op.module), _ConvNd))


def _channels(cuts: Cuts, convolutions: Iterable[Op]) -> Iterator[Dim]:
    """The channels that convolutions take and make: grouped weights do not hold the former."""
    for op in convolutions:
        values = (op.inputs[0], op.outputs[0])
        for dims in (cuts.deps.dims[v] for v in values if v is not None and len(v.shape) > 2):
            yield dims[1]


def _end(
    cuts: Cuts, convolutions: Sequence[Op], attr: str, held: int, counts: Mapping[Axis, int]
) -> set[int]:
    """What the first convolution takes, or the last one makes, where an attribute says that."""
    first = _FIRST.match(attr)
    if not convolutions or not (first or _LAST.match(attr)):
        return set()
    op = convolutions[0 if first else -1]
    value = op.inputs[0] if first else op.outputs[0]
    dims = [] if value is None else cuts.deps.dims[value][1:2]
    return {kept_length(dim, counts) for dim in dims if length(dim) == held}


def _regrouped(cuts: Cuts, convolutions: Iterable[Op], held: int) -> set[int]:
    """What a number of groups becomes in the convolutions that have it."""
    return {
        cuts.attrs.get(op, {}).get("groups", held)
        for op in convolutions
        if op.attrs.get("groups") == held
    }


def _parts(dim: Dim, factors: bool) -> list[Any]:
    return [(axis,) for axis in leaves(dim)] if factors else [dim]
