"""copying: deep copies of modules."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import nn

from graphprune.engine.state import KINDS_REMEMBERED, MAY_HOLD

_Module = TypeVar("_Module", bound=nn.Module)

_CONTAINERS = frozenset((dict, OrderedDict, list, set))
_ATOMS = frozenset((type(None), bool, int, float, complex, str, bytes, type))
# How a class may say for itself how objects are copied; `__setstate__` is asked in any case.
_OWN_WAYS = (
    "__deepcopy__",
    "__reduce_ex__",
    "__reduce__",
    "__getstate__",
    "__getnewargs_ex__",
    "__getnewargs__",
    "__new__",
    "__slots__",
)


def copied(module: _Module, memo: dict[int, Any] | None = None) -> _Module:
    """A deep copy of a module, in whatever state an earlier pass left it.

    Code may keep what it computed of weights: tables in dictionaries and lists, tensors that a hook
    or `weight_norm` leaves behind. PyTorch does not copy these; their copies know no gradient.

    It gives what `copy.deepcopy` gives, in less time: most attributes of modules are numbers, and
    dictionaries without entries.

    Args:
        module: The module.
        memo: What stands for certain objects, by identity, as in `copy.deepcopy`.
    """
    made: dict[int, Any] = {}
    modules = list(module.modules())
    for inner in modules:
        for name, held in inner.__dict__.items():
            if isinstance(held, MAY_HOLD) and name not in ("_modules", "_parameters"):
                for tensor in _all_tensors_in(held):
                    if tensor.grad_fn is not None:
                        made[id(tensor)] = tensor.detach().clone()
    made |= memo or {}
    plain = [m for m in modules if id(m) not in made and _is_plain(type(m))]  # type: ignore[arg-type]
    made |= {id(inner): type(inner).__new__(type(inner)) for inner in plain}
    for inner in reversed(plain):
        # What `Module.compile` made calls the original: `__getstate__` leaves it out.
        kept = inner.__getstate__()  # type: ignore[no-untyped-call]
        state = {name: _copied(held, made) for name, held in kept.items()}
        made[id(inner)].__setstate__(state)
    return copy.deepcopy(module, made)


@lru_cache(maxsize=KINDS_REMEMBERED)
def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether modules of a class are copied attribute by attribute."""
    return all(getattr(kind, way, None) is getattr(nn.Module, way, None) for way in _OWN_WAYS)


def _copied(held: Any, made: dict[int, Any]) -> Any:
    kind = type(held)
    if kind in _ATOMS:
        return held
    if kind in _CONTAINERS and not held:
        return made.setdefault(id(held), kind())
    return copy.deepcopy(held, made)


def _all_tensors_in(held: Any) -> Iterator[torch.Tensor]:
    """Tensors in containers, and in containers that these hold."""
    if isinstance(held, torch.Tensor):
        yield held
    elif isinstance(held, MAY_HOLD):
        for item in held.values() if isinstance(held, dict) else held:
            yield from _all_tensors_in(item)
