"""What a class becomes with other values in its config: each choice is built once.

A class is built on the meta device, where tensors take no memory. What an entry was seen to change
is remembered, for building is what takes the time: entries that nothing wrong depends on need not
be tried, neither for this choice of widths nor for the next.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from torch import nn

from graphprune.frontends.skeleton import missing, numbers, on_meta
from graphprune.frontends.torch import quiet

Entry: TypeAlias = "tuple[tuple[str, ...], str, int | None]"
"""Names of the configs on the way, attribute, index in a list or None."""
Values: TypeAlias = "Mapping[Entry, float]"
"""New values of a config's entries."""
Shapes: TypeAlias = "dict[str, tuple[int, ...]]"
Key: TypeAlias = "tuple[str, int] | tuple[str, str]"
"""A weight and one of its dimensions, or a module and one of its numbers."""


@dataclass(frozen=True)
class Outcome:
    """What a class is, built from a config.

    Attributes:
        lengths: Of all dimensions of its weights; that of `-1` is how many there are.
        numbers: What its modules hold as attributes.
    """

    lengths: Mapping[tuple[str, int], int]
    numbers: Mapping[tuple[str, str], float]

    def differs(self, other: Outcome) -> set[Key]:
        """Where another outcome is not the same."""
        found = dict(self.lengths.items() ^ other.lengths.items()).keys()
        return {*found, *dict(self.numbers.items() ^ other.numbers.items())}


@dataclass
class Trials:
    """Configs that were tried for a model.

    Attributes:
        model: The model.
    """

    model: nn.Module
    _effects: dict[Entry, set[Key]] = field(default_factory=dict)
    _values: dict[Entry, set[float]] = field(default_factory=dict)
    _outcomes: dict[frozenset[tuple[Entry, float]], Outcome | None] = field(default_factory=dict)
    _watched: set[tuple[str, str]] = field(default_factory=set)

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    @cached_property
    def lacking(self) -> list[tuple[tuple[str, ...], str]]:
        """Entries that the class looks for in its config, and does without."""
        return missing(type(self.model), self.config)

    @cached_property
    def _held(self) -> dict[Entry, Any]:
        return dict(entries(self.config))

    @cached_property
    def _names(self) -> Collection[str]:
        return self.model.state_dict().keys()

    def watch(self, places: Collection[tuple[str, str]]) -> None:
        """Look at numbers of configs that modules hold too, which are many."""
        new = {place for place in places if "." in place[1]} - self._watched
        if new:
            self._watched |= new
            self._outcomes.clear()

    def outcome(self, values: Values) -> Outcome | None:
        """What the class becomes; None where it refuses the config, or has other weights."""
        held = self._held
        key = frozenset((e, n) for e, n in values.items() if e not in held or held[e] != n)
        if key not in self._outcomes:
            built = self.built(dict(key))
            state = built.state_dict() if built is not None else {}
            self._outcomes[key] = None
            if built is not None and state.keys() == self._names:
                lengths = keys_of({name: tuple(x.shape) for name, x in state.items()})
                found = numbers(built, dict.fromkeys(self._watched, 0.0))
                self._outcomes[key] = Outcome(lengths, found)
        return self._outcomes[key]

    def learn(self, entry: Entry, before: Values, after: Values) -> None:
        """Note what the change of an entry's value changes."""
        first, second = self.outcome(before), self.outcome(after)
        if first is None or second is None or first is second:
            return
        self._effects.setdefault(entry, set()).update(first.differs(second))
        known = self._values.setdefault(entry, set())
        known.update(n for n in (before.get(entry, self._held.get(entry)), after[entry]) if n)

    def effects(self, entry: Entry) -> Collection[Key] | None:
        """What an entry changes; None as long as it was not seen to have two values.

        One is not enough: where an entry is None, the class may derive this very value.
        """
        return self._effects[entry] if len(self._values.get(entry, ())) > 1 else None

    def built(
        self, values: Values, make: Callable[[type, Any], nn.Module] = on_meta
    ) -> nn.Module | None:
        """The class built from a config, or None where it refuses."""
        try:
            with quiet():
                return make(type(self.model), changed(self.config, values))
        except Exception:
            return None


def keys_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[tuple[str, int], int]:
    """The lengths of all dimensions, and under `-1` how many there are."""
    lengths = {(name, i): n for name, shape in shapes.items() for i, n in enumerate(shape)}
    return lengths | {(name, -1): len(shape) for name, shape in shapes.items()}


def shapes_of(lengths: Mapping[tuple[str, int], int]) -> Shapes:
    """The shapes that have these lengths."""
    dims = {name: count for (name, i), count in lengths.items() if i == -1}
    return {name: tuple(lengths[name, i] for i in range(count)) for name, count in dims.items()}


def entries(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[Entry, Any]]:
    """The entries of a config, those of configs that it holds, and elements of lists."""
    for name, held in vars(config).items():
        if name.startswith("_") or name.endswith("_id"):
            continue
        if isinstance(held, list | tuple):
            yield from (((path, name, i), x) for i, x in enumerate(held))
        elif hasattr(held, "to_dict"):
            yield from entries(held, (*path, name))
        else:
            yield (path, name, None), held


def write(config: Any, values: Values) -> None:
    """Set entries of a config."""
    for (path, name, index), value in values.items():
        holder = config
        for step in path:
            holder = vars(holder)[step]
        if index is None:
            vars(holder)[name] = value
        else:
            items = list(vars(holder)[name])
            items[index] = value
            vars(holder)[name] = type(vars(holder)[name])(items)


def changed(config: Any, values: Values) -> Any:
    """A config with new values, as it is once it was written to a file and read again."""
    copied = copy.deepcopy(config)
    write(copied, values)
    again = getattr(type(config), "from_dict", None)
    return copied if again is None else again(copied.to_dict())
