"""Relations between lengths: which ones code took for one another, and how they are tied."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from graphprune.core.axes import Dim

Relation: TypeAlias = "tuple[Dim, Dim]"
"""Two dimensions that should keep their proportion; the second is empty if the first is to stay."""


@dataclass(frozen=True)
class Mismatch:
    """A length that the code took for another.

    Attributes:
        dim: The dimension whose length was wanted.
        given: The length that was given instead.
        other: The dimension that has the given length, where it is known.
    """

    dim: Dim
    given: int
    other: Dim | None = None


@dataclass
class Ties:
    """Preferences between the counts of groups, by group id.

    Attributes:
        frozen: Groups that keep all their indices.
        steps: For groups that lead others: what their counts are multiples of.
        followers: For groups that lead others: those whose counts stay in proportion to theirs.
        wish: Whether they are given up where the other groups would lose too much: the code does
            not need them.
        needed: Whether the code was seen to need them: they are kept as long as the budget is met
            within its whole tolerance.
    """

    frozen: set[int] = field(default_factory=set)
    steps: dict[int, int] = field(default_factory=dict)
    followers: dict[int, tuple[int, ...]] = field(default_factory=dict)
    wish: bool = False
    needed: bool = False
