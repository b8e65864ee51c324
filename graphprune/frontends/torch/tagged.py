"""Integer attributes that remember where they live: on a module, or on a config that it holds."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import nn

Place: TypeAlias = "tuple[str, str, int | None]"
"""Module path, attribute (`num_heads`, `config.num_heads`), index in a tuple or None."""


class Tagged(int):
    """An integer attribute that remembers its place; arithmetic yields plain integers.

    Attributes:
        holder: The dictionary that holds it.
        place: Its place.
        unequal: The numbers that it was last compared with and found to differ from, the last of
            all attributes last: code that checks a width (`assert x.shape[1] == self.channels`)
            tells so which width it looks for.
    """

    holder: dict[str, Any]
    place: Place
    unequal: list[tuple[Tagged, int]]

    def __hash__(self) -> int:
        """Another one than a plain integer's.

        Caches by equal arguments (`lru_cache`; einops has such) would hand out what they were given
        first, plain or of another place.
        """
        return hash((int(self), self.place, id(self.unequal)))

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other)
        if same is False and type(other) is int:
            self.unequal.append((self, other))
        return same is True

    def __ne__(self, other: object) -> bool:
        return not self == other


Unequal: TypeAlias = "list[tuple[Tagged, int]]"


def tag(path: str, prefix: str, holder: dict[str, Any], attr: str, unequal: Unequal) -> None:
    """Tag an attribute's integers with their place.

    Args:
        path: The module's path.
        prefix: What comes before the attribute's name in a `Place`.
        holder: The dictionary that holds the attribute.
        attr: Its name.
        unequal: Where to note comparisons that find a difference.
    """
    held = holder[attr]
    if type(held) in (tuple, list) and all(type(item) is int for item in held):
        places: list[Place] = [(path, prefix + attr, i) for i in range(len(held))]
        items = [_tagged(holder, p, x, unequal) for p, x in zip(places, held, strict=True)]
        holder[attr] = type(held)(items)
    elif type(held) is int:
        holder[attr] = _tagged(holder, (path, prefix + attr, None), held, unequal)


def _tagged(holder: dict[str, Any], place: Place, held: int, unequal: Unequal) -> int:
    if held < 2:
        return held
    made = Tagged(held)
    made.holder, made.place, made.unequal = holder, place, unequal
    return made


def assign(given: Tagged, value: int) -> None:
    """Let later uses in the same pass see the new value."""
    put(given.holder, given.place, _tagged(given.holder, given.place, value, given.unequal))


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
