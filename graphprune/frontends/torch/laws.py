"""Laws: how numbers in code follow a size of its inputs, by a power of it or a multiple of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose
from typing import Any, NamedTuple, TypeAlias

from torch.utils import _pytree as pytree

from graphprune.core.axes import Axis, atoms, leaves, length
from graphprune.core.cuts import Cuts
from graphprune.core.graph import Value
from graphprune.frontends.torch.findings import Call

_POWERS = (1, -1, 0.5, -0.5, 2, -2)
_LONGER = (2, 3)  # times a size that is not the batch's: patches, strides and windows divide it
_MORE = (1, 3)  # samples more than the batch that was captured


@dataclass(frozen=True)
class Length:
    """A factor of a number: a power of an input's size.

    Attributes:
        value: The input.
        dim: Its dimension.
        size: The size when the model was captured, without `rest`.
        rest: What the dimension holds besides (windows of each sample).
        power: The power.
        step: For a number that grows by a multiple of the size: what it grows by.
        whole: Whether the number is an integer.
    """

    value: Value
    dim: int
    size: int
    rest: int
    power: float = 1
    step: int | None = None
    whole: bool = True

    def of(self, number: Any, size: int) -> Any:
        """The number at another size."""
        if self.step is not None:
            return number + (size - self.size) * self.step
        if self.whole and self.power == 1:
            return size * number // self.size
        return number * (size / self.size) ** self.power


Lengths: TypeAlias = "list[Length] | list[list[Length]]"


class Size(NamedTuple):
    """A size of the inputs that may become another: an axis, and where it is read."""

    axis: Axis
    value: Value
    dim: int
    rest: int
    batch: bool

    def others(self) -> list[int]:
        """Other sizes to try."""
        if self.batch:
            return [self.axis.size + more for more in _MORE]
        return [self.axis.size * times for times in _LONGER]


def law_of(size: Size, number: Any, others: Sequence[tuple[int, Any]]) -> Lengths | None:
    """How a number, or each of several, follows a size; None where no simple law fits."""
    if isinstance(number, list):
        if any(not isinstance(o, list) or len(o) != len(number) for _, o in others):
            return None
        each: list[Any] = [
            law_of(size, n, [(at, o[i]) for at, o in others]) for i, n in enumerate(number)
        ]
        return None if None in each else [law or [] for law in each]
    if all(other == number for _, other in others):
        return []
    numbers = (number, *(other for _, other in others))
    if any(type(x) not in (int, float) for x in numbers):
        return None
    whole = all(type(x) is int for x in numbers)
    held = Length(size.value, size.dim, size.axis.size, size.rest, whole=whole)
    tries = [replace(held, power=power) for power in ((1,) if whole else _POWERS)]
    at, other = others[0]
    if whole and (other - number) % (at - size.axis.size) == 0:
        tries.append(replace(held, step=(other - number) // (at - size.axis.size)))
    for law in tries:
        if all(near(law.of(number, at), other) for at, other in others):
            return [law]
    return None


def near(found: Any, wanted: Any) -> bool:
    """Whether numbers are the same but for rounding."""
    if isinstance(found, list | tuple):
        return all(near(a, b) for a, b in zip(found, wanted, strict=True))
    if isinstance(found, float) and isinstance(wanted, int | float):
        return isclose(found, wanted, rel_tol=1e-12)
    return bool(found == wanted)


def at_sizes(number: Any, laws: Any, sizes: Mapping[tuple[Value, int], int]) -> Any:
    """A number at other sizes."""
    if isinstance(number, list):
        return [at_sizes(n, law, sizes) for n, law in zip(number, laws, strict=True)]
    for law in laws:
        number = law.of(number, sizes.get((law.value, law.dim), law.size))
    return number


def flat(laws: Any) -> list[Length]:
    """The laws of a number, or of several, in a row."""
    return [one for law in laws for one in (law if isinstance(law, list) else [law])]


def joined(known: Any, law: Any) -> Any:
    """The laws of several sizes for one number."""
    if known is None:
        return law
    if law and isinstance(law[0], list):
        return [[*a, *b] for a, b in zip(known, law, strict=True)]
    return [*known, *law]


def sizes_of(call: Call, cuts: Cuts) -> Iterator[Size]:
    """The sizes of the inputs that are no widths of the model's."""
    widths = {group.axis for group in cuts.deps.groups}
    inputs = cuts.deps.source.inputs
    batch = next((a for v in inputs for a in leaves(cuts.deps.dims[v][0] if v.shape else ())), None)
    seen: set[Axis] = set()
    values = dict.fromkeys(x for x in pytree.tree_leaves(call.args) if isinstance(x, Value))
    for value in values:
        for number, dim in enumerate(() if value.is_weight else cuts.deps.dims[value]):
            factors = leaves(dim)
            if not factors or factors[0] in seen or not widths.isdisjoint(atoms(dim)):
                continue
            axis = factors[0]
            seen.add(axis)
            yield Size(axis, value, number, length(dim) // axis.size, axis is batch)
