"""What a forward pass leaves on a module and on the process, and how to undo it."""

from __future__ import annotations

import logging
import random
import types
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import nn

_OPAQUE = (nn.Module, torch.Tensor, type, types.FunctionType, types.MethodType, types.ModuleType)
_CONTAINERS = frozenset((dict, OrderedDict, list))
KINDS_REMEMBERED = 1024  # classes of attributes and modules; a model has a few dozen

MAY_HOLD = (torch.Tensor, list, tuple, dict)  # tensors
_LARGEST = 1 << 20  # elements of a buffer that code may write to; masks and tables are larger


def holders(module: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where a module keeps attributes: itself, and plain objects (configs) that it holds.

    Yields:
        What comes before an attribute's name in a `Place`, and the dictionary that holds it.
    """
    yield "", module.__dict__
    for name, held in list(module.__dict__.items()):
        if is_config(held):
            yield f"{name}.", held.__dict__


def is_config(held: Any) -> bool:
    """Whether an attribute is an object with attributes of its own, written in Python."""
    if not _may_be_config(type(held)) or callable(held):  # type: ignore[arg-type]  # hashable
        return False
    return isinstance(getattr(held, "__dict__", None), dict)


@lru_cache(maxsize=KINDS_REMEMBERED)
def _may_be_config(kind: type) -> bool:
    """Whether objects of a class can be such. Most attributes are of few classes."""
    foreign = not kind.__module__.startswith(("torch.", "builtins"))
    return foreign and not issubclass(kind, (*_OPAQUE, int))


_COMPILED = "_compiled_call_impl"  # where `nn.Module.compile` leaves what it makes


@contextmanager
def preserved(model: nn.Module, fused: bool = False) -> Iterator[None]:
    """Undo whatever a forward pass leaves on a module: modes, attributes, buffers, caches.

    Args:
        model: The module.
        fused: Whether `nn.TransformerEncoder` may use its fused kernel inside, which hides the
            roles of its weights.

    Inside, modules that were compiled in place run their own code: compiled code is not captured.
    """
    saved = [_state(module) for module in model.modules()]
    buffers = [(held, held.detach().clone(), held._version) for held in _written(model)]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast and fused)
    for module in model.modules():
        if module.__dict__.get(_COMPILED) is not None:
            module.__dict__[_COMPILED] = None
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for held, before, version in buffers:
            # Batch norms write their statistics without counting a version.
            if held._version != version or not torch.equal(held, before):
                with torch.no_grad():
                    held.copy_(before)
        for restore in saved:
            for holder, content in restore:
                if holder or content:
                    holder.clear()
                    holder.update(content) if isinstance(holder, dict) else holder.extend(content)


@contextmanager
def modes_preserved(model: nn.Module) -> Iterator[None]:
    """Undo changes of the mode of a module and of those inside it.

    Args:
        model: The module.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _written(model: nn.Module) -> Iterator[torch.Tensor]:
    """The buffers that a forward pass may write to: larger ones are tables."""
    for held in model.buffers():
        if held.numel() <= _LARGEST and not held.is_inference():
            yield held


@contextmanager
def kept_tensors(model: nn.Module) -> Iterator[set[tuple[str, str]]]:
    """Find the attributes that get tensors in the meantime, by path of the module and name.

    A trace takes back what it assigns, so that assignments are watched too.

    Yields:
        A set that is filled at the end.
    """
    before = {path: _tensors_of(module) for path, module in model.named_modules()}
    # A trace calls modules through others, which share what they hold.
    paths = {id(module.__dict__): path for path, module in model.named_modules()}
    found: set[tuple[str, str]] = set()
    assign = nn.Module.__setattr__

    def watched(module: nn.Module, name: str, held: Any) -> None:
        known = module.__dict__.get(name, module.__dict__.get("_buffers", {}).get(name, held))
        empty = known is None  # not what each pass assigns anew
        assign(module, name, held)
        path = paths.get(id(module.__dict__))
        if empty and path is not None and isinstance(held, torch.Tensor):
            found.add((path, name))

    nn.Module.__setattr__ = watched  # type: ignore[method-assign, assignment]
    try:
        yield found
    finally:
        nn.Module.__setattr__ = assign  # type: ignore[method-assign]
        for path, module in model.named_modules():
            known = before.get(path, {})
            for name, held in _tensors_of(module).items():
                if not _same(held, known.get(name, [])):
                    found.add((path, name))


def _tensors_of(module: nn.Module) -> dict[str, list[torch.Tensor]]:
    """Attributes that are tensors, or containers that hold some, weights and buffers apart."""
    found = {}
    for name, held in module.__dict__.items():
        if isinstance(held, MAY_HOLD) and not name.startswith("_"):
            tensors = _tensors_in(held)
            if tensors:
                found[name] = tensors
    return found


def _tensors_in(held: Any) -> list[torch.Tensor]:
    if isinstance(held, torch.Tensor):
        return [held]
    items = held.values() if isinstance(held, dict) else held
    return [item for item in items if isinstance(item, torch.Tensor)]


def _same(held: list[torch.Tensor], known: list[torch.Tensor]) -> bool:
    return len(held) == len(known) and all(map(is_, held, known))


def _state(module: nn.Module) -> list[tuple[Any, Any]]:
    """The mutable containers of a module, with copies of what they hold."""
    held = [holder for _, holder in holders(module)]
    held += [v for v in module.__dict__.values() if type(v) in _CONTAINERS]
    return [(holder, holder.copy() if holder else ()) for holder in held]


@contextmanager
def same_draws() -> Iterator[None]:
    """Leave the random generators as they were, for code that draws what it calls."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    on_devices = torch.cuda.get_rng_state_all() if used else []
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_devices:
            torch.cuda.set_rng_state_all(on_devices)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep PyTorch's warnings and logs about a trace to itself: errors are told in our words."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
