"""shortened: a module's own code with fewer branches.

Code that adds up branches often runs without some of them: where a list of them is shorter, where
an attribute is None, or where one layer in place of them all has a name that is None before (timm's
RepVGG and MobileOne). Whether it does is tried, and held against what the module computed before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.graph import Value
from graphprune.engine.copying import copied
from graphprune.engine.state import preserved, quiet
from graphprune.engine.tensors import difference
from graphprune.frontends.torch.findings import Call

_TOLERANCE = 1e-5  # relative, in double precision: merged weights are rounded to single precision


@dataclass(frozen=True)
class Branches:
    """What merging left of the branches inside a module.

    Attributes:
        gone: Paths of the outermost modules that compute nothing any more.
        layer: Path of the one layer that computes what all did; empty where several are left.
        around: Path of the outermost module that does nothing but run that layer.
    """

    gone: Sequence[str]
    layer: str = ""
    around: str = ""


def shorten(original: nn.Module, module: nn.Module, call: Call, branches: Branches) -> bool:
    """Take branches that are left over out of a module, if its own code does without them.

    Args:
        original: The module as it was.
        module: Its copy with the weights that are left; it is changed only where that works.
        call: A call of it.
        branches: What is left of its branches, by paths within it.

    Returns:
        Whether the module is now one of fewer branches that computes the same.
    """
    if not branches.gone:
        return False
    wanted = _results(original, call)
    if wanted is None:
        return False
    return any(_tried(module, change, call, wanted) for change in _changes(module, branches))


def _changes(module: nn.Module, branches: Branches) -> Iterator[Any]:
    """Ways to take the branches out, the one that leaves least first; each is to be called."""
    if branches.layer:
        every = _outermost([*branches.gone, branches.around])
        for name in _unset(module):
            yield lambda name=name: _deploy(module, branches.layer, name, every)
    yield lambda: _take_out(module, branches.gone)


def _unset(module: nn.Module) -> list[str]:
    """Public attributes that are None."""
    held = {**vars(module), **module._modules}
    return [name for name, item in held.items() if item is None and not name.startswith("_")]


def _deploy(module: nn.Module, layer: str, name: str, gone: Sequence[str]) -> None:
    held = module.get_submodule(layer)
    _take_out(module, gone)
    setattr(module, name, held)


def _take_out(module: nn.Module, gone: Sequence[str]) -> None:
    shorter: dict[int, int] = {}
    for path in sorted(gone, key=_position, reverse=True):
        parent, _, name = path.rpartition(".")
        holder = module.get_submodule(parent)
        if isinstance(holder, nn.ModuleList):
            shorter.setdefault(id(holder), len(holder))
            del holder[int(name)]
            _recount(module, len(holder) + 1)
        else:
            setattr(holder, name, None)


def _recount(module: nn.Module, length: int) -> None:
    """Numbers that say how long a list was."""
    for name, item in vars(module).items():
        if type(item) is int and item == length:
            setattr(module, name, length - 1)


def _position(path: str) -> tuple[str, int]:
    parent, _, name = path.rpartition(".")
    return parent, int(name) if name.isdigit() else 0


def _outermost(paths: Collection[str]) -> list[str]:
    return [p for p in paths if not any(p.startswith(f"{q}.") for q in paths)]


def _tried(module: nn.Module, change: Any, call: Call, wanted: Sequence[torch.Tensor]) -> bool:
    with _restored(module) as keep:
        change()
        found = _results(module, call)
        if found is None or len(found) != len(wanted):
            return False
        if any(a.shape != b.shape or difference(a, b) > _TOLERANCE
               for a, b in zip(wanted, found, strict=True)):  # fmt: skip
            return False
        keep.append(True)
    return True


@contextmanager
def _restored(module: nn.Module) -> Iterator[list[bool]]:
    """Put modules and attributes back, unless something is added to what this yields."""
    inside = list(module.modules())
    held = [(inner, dict(inner._modules)) for inner in inside]
    own = {k: v for k, v in vars(module).items() if not k.startswith("_")}
    keep: list[bool] = []
    try:
        yield keep
    finally:
        if not keep:
            for inner, modules in held:
                inner._modules.clear()
                inner._modules.update(modules)
            for name in [k for k in vars(module) if not k.startswith("_")]:
                del module.__dict__[name]
            module.__dict__.update(own)


def _results(module: nn.Module, call: Call) -> list[torch.Tensor] | None:
    """What a module makes of numbers of a call's shapes, in double precision; None on errors."""
    draw = torch.Generator().manual_seed(0)
    device = next((p.device for p in module.parameters()), None)
    made: dict[Value, torch.Tensor] = {}

    def given(value: Value) -> torch.Tensor:
        if value not in made:
            drawn = torch.rand(value.shape, generator=draw, dtype=torch.float64) - 0.3
            kind = getattr(torch, value.dtype)
            made[value] = drawn.to(device, torch.float64 if kind.is_floating_point else kind)
        return made[value]

    try:
        args, kwargs = pytree.tree_map_only(Value, given, call.args)
        trial = copied(module).double()
        with preserved(trial), quiet(), torch.no_grad():
            results = trial.eval().forward(*args, **kwargs)
    except Exception:  # whatever code raises that cannot do without a branch
        return None
    return [x for x in pytree.tree_leaves(results) if isinstance(x, torch.Tensor)]


__all__ = ["Branches", "shorten"]
