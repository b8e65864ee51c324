"""What a class becomes with other values in its config: each choice is built once.

A class is built on the meta device, where tensors take no memory. What an entry was seen to change
is remembered, for building is what takes the time: entries that nothing wrong depends on need not
be tried, neither for this choice of widths nor for the next.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from torch import nn

from graphprune.engine.state import quiet
from graphprune.frontends.torch.skeleton import Reads, numbers, on_meta, reads

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

    lengths: Mapping[Key, int]
    numbers: Mapping[tuple[str, str], float]

    def differs(self, other: Outcome) -> set[Key]:
        """Where another outcome is not the same."""
        found = dict(self.lengths.items() ^ other.lengths.items()).keys()
        return {*found, *dict(self.numbers.items() ^ other.numbers.items())}


@dataclass(frozen=True)
class Effect:
    """What a length became as an entry got another value.

    Attributes:
        values: The entry's values.
        lengths: The lengths; None for numbers of modules.
    """

    values: tuple[Any, float]
    lengths: tuple[int | None, int | None]

    def fits(self, given: Any, length: int | None, value: float, wanted: int | None) -> bool:
        """Whether a length may become as wanted: it grows with the value, or shrinks with it."""
        (v, w), (n, m) = self.values, self.lengths
        if None in (n, m, length, wanted) or not _numbers(v, w, given) or v == w:
            return True
        assert n is not None and m is not None and length is not None and wanted is not None
        guesses = (
            length * value / given,
            length + (m - n) / (w - v) * (value - given),
            length * given / value,
        )
        return any(abs(guess - wanted) < 1 for guess in guesses)


def _numbers(*found: Any) -> bool:
    return all(type(x) in (int, float) and x for x in found)


@dataclass
class Trials:
    """Configs that were tried for a model.

    Attributes:
        model: The model.
    """

    model: nn.Module
    _effects: dict[Entry, dict[Key, Effect]] = field(default_factory=dict)
    _values: dict[Entry, set[float]] = field(default_factory=dict)
    _refused: Counter[Entry] = field(default_factory=Counter)
    _outcomes: dict[frozenset[tuple[Entry, float]], Outcome | None] = field(default_factory=dict)
    _watched: set[tuple[str, str]] = field(default_factory=set)

    @property
    def config(self) -> Any:
        """The model's config."""
        return self.model.config

    @cached_property
    def reads(self) -> Reads:
        """What the class looks at in its config."""
        return reads(type(self.model), self.config)

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
        given = before.get(entry, self._held.get(entry))
        if first is not None and second is None and given is None:
            self._refused[entry] += 1
        if first is None or second is None or first is second:
            return
        effects = self._effects.setdefault(entry, {})
        for key in first.differs(second):
            found = first.lengths.get(key), second.lengths.get(key)
            effects[key] = Effect((given, after[entry]), found)
        known = self._values.setdefault(entry, set())
        known.update(n for n in (given, after[entry]) if n)

    def known(self, entry: Entry) -> bool:
        """Whether an entry was seen to have two values.

        One is not enough: where an entry is None, the class may derive this very value.
        """
        return len(self._values.get(entry, ())) > 1

    def refused(self, entry: Entry) -> bool:
        """Whether an entry that was None takes no number, as far as was seen."""
        return entry not in self._values and self._refused[entry] > 1

    def helps(self, entry: Entry, values: Values, value: float, wanted: Mapping[Key, Any]) -> int:
        """How much of what is wrong another value of an entry seems to bring right.

        Args:
            entry: An entry that is known.
            values: The values of all entries.
            value: The entry's new one.
            wanted: What is wrong, and the lengths that are wanted.
        """
        outcome = self.outcome(values)
        given = values.get(entry, self._held.get(entry))
        lengths = outcome.lengths if outcome else {}
        return sum(
            effect.fits(given, lengths.get(key), value, wanted[key])
            for key, effect in self._effects.get(entry, {}).items()
            if key in wanted
        )

    def built(
        self, values: Values, make: Callable[[type, Any], nn.Module] = on_meta
    ) -> nn.Module | None:
        """The class built from a config, or None where it refuses."""
        try:
            with quiet():
                return make(type(self.model), changed(self.config, values))
        except Exception:
            return None


def keys_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[Key, int]:
    """The lengths of all dimensions, and under `-1` how many there are."""
    lengths: dict[Key, int] = {
        (name, i): n for name, shape in shapes.items() for i, n in enumerate(shape)
    }
    return lengths | {(name, -1): len(shape) for name, shape in shapes.items()}


def shapes_of(lengths: Mapping[Key, int]) -> Shapes:
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
