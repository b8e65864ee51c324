"""Integers that remember which attribute they come from."""

from __future__ import annotations

from typing import Any

from torch import nn


class Tagged(int):
    """An integer attribute that remembers its place; arithmetic yields plain integers."""

    module: nn.Module
    path: str
    attr: str
    index: int | None


def tagged(module: nn.Module, path: str, attr: str, held: Any) -> Any:
    """An attribute's value, its integers tagged with their place."""
    if type(held) in (tuple, list) and all(type(item) is int for item in held):
        return type(held)(_tag(module, path, attr, i, item) for i, item in enumerate(held))
    return _tag(module, path, attr, None, held) if type(held) is int else held


def _tag(module: nn.Module, path: str, attr: str, index: int | None, held: int) -> int:
    if held < 2:
        return held
    tag = Tagged(held)
    tag.module, tag.path, tag.attr, tag.index = module, path, attr, index
    return tag


def assign(tag: Tagged, value: int) -> None:
    """Let later uses in the same pass see the new value."""
    new = _tag(tag.module, tag.path, tag.attr, tag.index, value)
    if tag.index is None:
        tag.module.__dict__[tag.attr] = new
    else:
        items = list(tag.module.__dict__[tag.attr])
        items[tag.index] = new
        tag.module.__dict__[tag.attr] = type(tag.module.__dict__[tag.attr])(items)
