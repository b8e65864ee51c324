"""A class built anew from a config, without its weights: its numbers, beside the narrowed model's.

Shapes do not tell all that a class makes of its config. It derives numbers from widths (softmax
scales, heads) and whole tables (rotary frequencies), which are those of the original in the
narrowed model and others in a new one. Where such a number is seen to follow from a width, the
width is to stay if the config is to describe the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import isclose
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._device import DeviceContext

from graphprune.core.axes import Axis, Dim, leaves, length, segments
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Value
from graphprune.core.relations import Mismatch
from graphprune.engine.tensors import cut_tensor
from graphprune.frontends.torch.captured import is_layer
from graphprune.frontends.torch.tagged import container, get

Numbers: TypeAlias = "Mapping[tuple[str, str], float]"
"""Module path and attribute, and the number there."""

_POWERS = (1, 0.5, -0.5, -1)
_FILLING = {
    *(getattr(torch.Tensor, f"{name}_") for name in ("normal", "uniform", "fill", "zero")),
    *(
        getattr(nn.init, f"{name}_")
        for name in ("normal", "uniform", "constant", "kaiming_uniform")
    ),
}


def on_meta(kind: type, config: Any) -> nn.Module:
    """Build a class on the meta device, where tensors take no memory."""
    with _Unfilled(torch.device("meta")):
        built: nn.Module = kind(config)
    return built


class _Unfilled(DeviceContext):
    """Builds tensors on the meta device, and does not fill them: that took half of the time."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLING:
            return args[0] if args else kwargs["tensor"]
        return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


def skeleton(kind: type, config: Any) -> nn.Module:
    """Build a class with its buffers, its parameters on the meta device."""
    with _weightless():
        built: nn.Module = kind(config)
    return built


@dataclass
class Reads:
    """What a class looks at in its config as it is built.

    Each is the names of the configs on the way, and the entry's.

    Attributes:
        found: Entries that there are.
        lacking: Entries that there are not; the class does without.
    """

    found: set[tuple[tuple[str, ...], str]] = field(default_factory=set)
    lacking: dict[tuple[tuple[str, ...], str], None] = field(default_factory=dict)


def reads(kind: type, config: Any) -> Reads:
    """What a class looks at in its config, and in those that it holds."""
    out = Reads()
    spied = copy.deepcopy(config)
    _spy(spied, (), out)
    with suppress(Exception):
        on_meta(kind, spied)
    return out


def _spy(config: Any, path: tuple[str, ...], out: Reads) -> None:
    """Let a config, and those that it holds, note what is looked at."""
    held, kind = vars(config), type(config)

    def found(self: Any, name: str) -> Any:
        if name in held:
            out.found.add((path, name))
        return kind.__getattribute__(self, name)  # type: ignore[call-arg]

    def lacking(self: Any, name: str) -> Any:
        if not name.startswith("_"):
            out.lacking[path, name] = None
        raise AttributeError(name)

    for name, inner in held.items():
        if hasattr(inner, "to_dict"):
            _spy(inner, (*path, name), out)
    methods = {"__getattr__": lacking, "__getattribute__": found}
    config.__class__ = type(kind.__name__, (kind,), methods)


@contextmanager
def _weightless() -> Iterator[None]:
    """Put parameters on the meta device as modules take them in."""

    def moved(module: nn.Module, name: str, parameter: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)

    # What a hook returns is taken, though PyTorch's annotation has none return anything.
    handle = register_module_parameter_registration_hook(moved)  # type: ignore[arg-type]
    try:
        yield
    finally:
        handle.remove()


def numbers(model: nn.Module, wanted: Numbers | None = None) -> dict[tuple[str, str], float]:
    """The numbers that a model's own modules hold as attributes.

    Args:
        model: The model.
        wanted: Which ones; all that modules hold themselves where not given.
    """
    found: dict[tuple[str, str], float] = {}
    for path, module in model.named_modules():
        if not is_layer(module):
            held = {k: v for k, v in module.__dict__.items() if type(v) in (int, float)}
            found |= {(path, attr): value for attr, value in held.items() if attr[0] != "_"}
    for path, attr in wanted or ():
        if "." in attr:  # of a config that the module holds
            try:
                found[path, attr] = get(container(model, (path, attr, None)), (path, attr, None))
            except (AttributeError, KeyError):
                continue
    return found


def derived(model: nn.Module, built: nn.Module | None, cuts: Cuts) -> Iterator[Mismatch]:
    """Widths from which a class derives numbers that are not those of the narrowed model.

    Args:
        model: The original model.
        built: The class built from the new config, on which parameters have no values.
        cuts: What was narrowed.
    """
    if built is None:
        return
    before, after = numbers(model), numbers(built)
    for (path, attr), number in before.items():
        if type(number) is float and not isclose(after.get((path, attr), number), number):
            yield from _sources(cuts, path, number)
    made = dict(built.named_buffers())
    stored = built.state_dict().keys()
    held = {n: v for v in cuts.deps.source.weights.values() for n in (v.name, *v.aliases)}
    for name, tensor in model.named_buffers():
        if name in made and name not in stored:
            yield from _of_buffer(cuts, name, held.get(name), tensor, made[name])


def _of_buffer(
    cuts: Cuts, name: str, value: Value | None, tensor: torch.Tensor, made: torch.Tensor
) -> Iterator[Mismatch]:
    """The dimensions of a table that hold what the class computes anew, differently."""
    if tensor.numel() == 1 and made.numel() == 1:
        if not isclose(float(tensor), float(made), rel_tol=1e-6):
            yield from _sources(cuts, name.rpartition(".")[0], float(tensor))
    elif value is not None and value in cuts.weights:
        wanted = cut_tensor(tensor.detach(), cuts.weights[value])
        if made.shape != wanted.shape or not torch.allclose(made.to(wanted), wanted, 1e-5):
            touched = (dim for dim in cuts.deps.dims[value] if cuts.touches(dim))
            yield from (Mismatch(dim, length(dim), ()) for dim in touched)


def _sources(cuts: Cuts, path: str, number: float) -> Iterator[Mismatch]:
    """Lengths that change and that a number is a root or an inverse of, the nearest there are."""
    while True:
        prefix = f"{path}." if path else ""
        near = (v for name, v in cuts.deps.source.weights.items() if name.startswith(prefix))
        dims = dict.fromkeys(part for v in near for dim in cuts.deps.dims[v] for part in parts(dim))
        found = [
            dim
            for dim in dims
            if cuts.touches(dim) and any(isclose(number, length(dim) ** p) for p in _POWERS)
        ]
        if found or not path:
            yield from (Mismatch(dim, length(dim), ()) for dim in found)
            return
        path = path.rpartition(".")[0]


def parts(dim: Dim) -> Iterator[Dim]:
    """Runs of factors of a dimension, and of those of its segments."""
    factors: list[Axis] = leaves(dim)
    for start in range(len(factors)):
        for stop in range(start + 1, len(factors) + 1):
            yield tuple(factors[start:stop])
    for axis in factors:
        for part in segments(axis) if axis.parts is not None else ():
            yield from parts(part)
