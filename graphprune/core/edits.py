"""Edits: what a plan changes, as data.

An edit names what it changes, says how it cuts, what it costs and how it is proven, and travels as
JSON. A plan is a list of edits; each kind of edit is one class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol

from graphprune.core.axes import Axis
from graphprune.core.errors import PlanError
from graphprune.core.groups import Counts, Dependencies
from graphprune.core.indices import Indices
from graphprune.core.keep import Keep
from graphprune.core.within import Mask, Rank


class Edit(Protocol):
    """One change of a model.

    Attributes:
        kind: What sort of change it is; the word that stands for it in a saved plan.
        proof: How it is proven, in words.
    """

    kind: ClassVar[str]
    proof: ClassVar[str]

    def check(self, deps: Dependencies) -> None:
        """Refuse an edit that does not fit the model.

        Raises:
            PlanError: It does not fit; names what it changes, and why.
        """

    def cut(self, deps: Dependencies) -> Mapping[Axis, Indices]:
        """Sorted indices that stay, for each axis that loses some."""

    def count(self, deps: Dependencies, counts: Counts) -> None:
        """Set the counts of groups that costs are polynomials in."""

    def as_dict(self) -> dict[str, Any]:
        """The edit as plain data."""


KINDS: dict[str, Callable[[Mapping[str, Any]], Edit]] = {}
"""What reads an edit of each kind from plain data."""


def edit_kind(kind: type[Any]) -> type[Any]:
    """Register a class of edits under its kind; it has a class method `from_dict`.

    Raises:
        PlanError: There is such a kind already.
    """
    if kind.kind in KINDS:
        raise PlanError(f"there is a kind of edit {kind.kind!r} already")
    KINDS[kind.kind] = kind.from_dict
    return kind


edit_kind(Keep)
edit_kind(Mask)
edit_kind(Rank)


def edit_of(data: Mapping[str, Any]) -> Edit:
    """An edit from plain data.

    Raises:
        PlanError: There is no such kind of edit, or something in it is missing or wrong.
    """
    kind = data.get("kind", Keep.kind)
    if kind not in KINDS:
        raise PlanError(f"no kind of edit {kind!r}: this version knows {', '.join(KINDS)}")
    return KINDS[kind](data)


def cut_by(edits: Iterable[Edit], deps: Dependencies) -> dict[Axis, Indices]:
    """The indices that stay when all edits are made, for each axis that loses some.

    Raises:
        PlanError: An edit does not fit the model.
    """
    keep: dict[Axis, Indices] = {}
    for edit in edits:
        edit.check(deps)
        keep.update(edit.cut(deps))
    return keep


def counted(edits: Iterable[Edit], deps: Dependencies) -> Counts:
    """How many indices each group keeps when all edits are made."""
    counts = deps.sizes()
    for edit in edits:
        edit.count(deps, counts)
    return counts
