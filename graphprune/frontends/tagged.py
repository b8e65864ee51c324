"""Integer attributes that remember where they live: on a module, or on a config that it holds."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import nn

Place: TypeAlias = "tuple[str, str, int | None]"
"""Module path, attribute (`num_heads`, `config.num_heads`), index in a tuple or None."""

_OPAQUE = (nn.Module, torch.Tensor, type, types.FunctionType, types.MethodType, types.ModuleType)


class Tagged(int):
    """An integer attribute that remembers its place; arithmetic yields plain integers."""

    holder: dict[str, Any]
    place: Place


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
    if isinstance(held, _OPAQUE) or type(held).__module__.startswith(("torch.", "builtins")):
        return False
    return isinstance(getattr(held, "__dict__", None), dict) and not callable(held)


def tag(path: str, prefix: str, holder: dict[str, Any], attr: str) -> None:
    """Tag an attribute's integers with their place."""
    held = holder[attr]
    if type(held) in (tuple, list) and all(type(item) is int for item in held):
        items = [_tagged(holder, (path, prefix + attr, i), item) for i, item in enumerate(held)]
        holder[attr] = type(held)(items)
    elif type(held) is int:
        holder[attr] = _tagged(holder, (path, prefix + attr, None), held)


def _tagged(holder: dict[str, Any], place: Place, held: int) -> int:
    if held < 2:
        return held
    made = Tagged(held)
    made.holder, made.place = holder, place
    return made


def assign(given: Tagged, value: int) -> None:
    """Let later uses in the same pass see the new value."""
    put(given.holder, given.place, _tagged(given.holder, given.place, value))


def container(model: nn.Module, place: Place) -> dict[str, Any]:
    """The dictionary in which a place lies."""
    path, attr, _ = place
    holder = model.get_submodule(path).__dict__
    prefix, _, _ = attr.rpartition(".")
    return holder[prefix].__dict__ if prefix else holder


def get(holder: dict[str, Any], place: Place) -> int:
    """The value at a place."""
    _, attr, index = place
    held = holder[attr.rpartition(".")[2]]
    return int(held if index is None else held[index])


def put(holder: dict[str, Any], place: Place, value: int) -> None:
    """Set an attribute, or an element of a tuple or list."""
    _, attr, index = place
    name = attr.rpartition(".")[2]
    if index is None:
        holder[name] = value
    else:
        items = list(holder[name])
        items[index] = value
        holder[name] = type(holder[name])(items)
