"""Edits: what a plan changes, as data.

An edit names what it changes, says how it cuts, what it costs and how it is proven, and travels as
JSON. A plan is a list of edits; each kind of edit is one class.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from graphprune.core.axes import Axis
from graphprune.core.errors import PlanError
from graphprune.core.graph import Value
from graphprune.core.groups import Counts, Dependencies, Group
from graphprune.core.indices import Indices

Flags = npt.NDArray[np.bool_]


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


@dataclass
class Keep:
    """Keep some indices of a coupled group and remove the others.

    - How it cuts: every dimension that holds the group's axis loses the slices of the others.
    - What it costs: the group's count becomes the number of indices kept.
    - How it is proven: removal equals masking.

    Attributes:
        name: The group.
        size: How many indices it has.
        keep: Those that stay, sorted; None for all.
        group: The group's place among the model's groups.
        scores: How much each index matters, the lowest going first; None in a plan that was
            loaded. Not saved.
    """

    name: str
    size: int
    keep: Indices | None = None
    group: int = 0
    scores: npt.NDArray[np.float64] | None = field(default=None, repr=False, compare=False)

    kind: ClassVar[str] = "keep"
    proof: ClassVar[str] = "removal equals masking"

    @classmethod
    def of(
        cls, group: Group, keep: Indices | None, scores: npt.NDArray[np.float64] | None = None
    ) -> Keep:
        """The edit of one group."""
        return cls(group.name, group.size, keep, group.id, scores)

    @property
    def curve(self) -> npt.NDArray[np.float64]:
        """The scores in the order in which indices go; those of `"auto"` and `"obs"` are losses.

        Number n is then the share of what the group's readers compute that is lost, as far as it
        cannot be made up for, once n + 1 indices are gone.

        Raises:
            PlanError: The plan was loaded: scores are not saved.
        """
        if self.scores is None:
            raise PlanError(f"{self.name}: a plan that was loaded has no scores; make it anew")
        return np.sort(self.scores)

    def __repr__(self) -> str:
        kept = self.size if self.keep is None else len(self.keep)
        return f"Keep({self.name!r}: {kept} of {self.size})"

    def find(self, deps: Dependencies) -> Group:
        """The group in a model's analysis.

        Raises:
            PlanError: The model has another group in its place.
        """
        found = deps.groups[self.group] if self.group < len(deps.groups) else None
        if found is None or found.size != self.size or self.name not in (found.name, found.first):
            present = "no such group" if found is None else f"{found.name} of {found.size}"
            raise PlanError(
                f"the plan was made for another model: its group {self.group} is {self.name} of "
                f"{self.size} indices, this model has {present}"
            )
        return found

    def check(self, deps: Dependencies) -> None:
        """Refuse indices that the group does not have.

        Raises:
            PlanError: They are no whole numbers, none at all, repeated or out of range.
        """
        group = self.find(deps)
        if self.keep is None:
            return
        where = f"{self.name}: keep"
        kept = _array(self.keep, where)
        if kept.ndim != 1:
            raise PlanError(f"{where} is {self.keep!r}: it is a list of indices, or None for all")
        if not kept.size:
            raise PlanError(f"{where} is empty: a group keeps at least one index, or all (None)")
        if kept.dtype.kind not in "iu":
            raise PlanError(f"{where} holds {kept.ravel()[0]!r}: indices are whole numbers")
        wrong = kept[(kept < 0) | (kept >= self.size)]
        if wrong.size:
            raise PlanError(f"{where} holds {wrong[0]}: indices run from 0 to {self.size - 1}")
        values, times = np.unique(kept, return_counts=True)
        if (times > 1).any():
            raise PlanError(f"{where} holds {values[times > 1][0]} more than once")
        if len(kept) % group.grain and len(kept) != self.size:
            raise PlanError(
                f"{where} holds {len(kept)} indices: the group keeps multiples of {group.grain}"
            )

    def cut(self, deps: Dependencies) -> Mapping[Axis, Indices]:
        """The indices that stay, by the group's axis."""
        if self.keep is None or len(self.keep) == self.size:
            return {}
        return {self.find(deps).axis: np.sort(np.asarray(self.keep, np.int64))}

    def count(self, deps: Dependencies, counts: Counts) -> None:
        """The group keeps so many indices."""
        if self.keep is not None:
            counts[self.find(deps).id] = len(self.keep)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Keep:
        """The edit from plain data.

        Raises:
            PlanError: Something is missing or wrong.
        """
        for name, wanted in (("name", str), ("size", int)):
            if not isinstance(data.get(name), wanted):
                raise PlanError(f"an edit lacks its {name}: {dict(data)}")
        kept = data.get("keep")
        if kept is not None and not isinstance(kept, list):
            raise PlanError(f"{data['name']}: keep is a list of indices or null, not {kept!r}")
        array = None if kept is None else _array(kept, f"{data['name']}: keep")
        return cls(data["name"], data["size"], array, int(data.get("group", 0)))

    def as_dict(self) -> dict[str, Any]:
        """The edit as plain data."""
        kept = None if self.keep is None else [int(i) for i in self.keep]
        return {
            "kind": self.kind, "group": self.group, "name": self.name, "size": self.size,
            "keep": kept,
        }  # fmt: skip


class _Within:
    """What edits inside a weight share: all its indices stay."""

    def cut(self, deps: Dependencies) -> Mapping[Axis, Indices]:
        """No index goes."""
        return {}

    def count(self, deps: Dependencies, counts: Counts) -> None:
        """All indices stay."""


def _weight(deps: Dependencies, name: str, shape: tuple[int, ...], does: str) -> Value:
    """A weight that an edit names.

    Raises:
        PlanError: The model has no such weight, or one of another shape.
    """
    found = deps.source.weights.get(name)
    if found is None or found.shape != shape:
        present = "no such weight" if found is None else f"one of shape {found.shape}"
        raise PlanError(
            f"the plan was made for another model: it {does} {name} of shape {shape}, this model "
            f"has {present}"
        )
    return found


@dataclass
class Mask(_Within):
    """Set some numbers of a weight to zero and keep the others.

    - How it cuts: not at all; the weight keeps its shape.
    - What it costs: nothing is saved but where zeros are stored or computed sparsely.
    - How it is proven: the zeros are counted in the result.

    Attributes:
        weight: The weight's name.
        kept: Which of its numbers stay, in its shape.
        pattern: How the zeros lie: `"unstructured"`, `"2:4"`, `"block:4x4"`.
    """

    weight: str
    kept: Flags
    pattern: str = "unstructured"

    kind: ClassVar[str] = "mask"
    proof: ClassVar[str] = "the zeros are counted in the result"

    def find(self, deps: Dependencies) -> Value:
        """The weight in a model's analysis.

        Raises:
            PlanError: The model has no such weight, or one of another shape.
        """
        return _weight(deps, self.weight, self.kept.shape, "sets zeros in")

    def check(self, deps: Dependencies) -> None:
        """Refuse a mask of a weight that the model does not have.

        Raises:
            PlanError: There is none of this name and shape.
        """
        self.find(deps)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Mask:
        """The edit from plain data.

        Raises:
            PlanError: Something is missing or wrong.
        """
        try:
            name, shape = str(data["weight"]), tuple(int(size) for size in data["shape"])
            packed = zlib.decompress(base64.b64decode(data["kept"], validate=True))
        except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
            raise PlanError(f"a mask lacks its weight, shape or kept numbers: {error!r}") from error
        bits = np.frombuffer(packed, np.uint8)
        if len(bits) != -(-prod(shape) // 8):
            raise PlanError(f"{name}: the mask does not hold {prod(shape)} flags")
        kept = np.unpackbits(bits, count=prod(shape)).astype(bool).reshape(shape)
        return cls(name, kept, str(data.get("pattern", "unstructured")))

    def as_dict(self) -> dict[str, Any]:
        """The edit as plain data: one bit for each number, packed."""
        packed = base64.b64encode(zlib.compress(np.packbits(self.kept).tobytes())).decode()
        return {
            "kind": self.kind, "weight": self.weight, "shape": list(self.kept.shape),
            "pattern": self.pattern, "kept": packed,
        }  # fmt: skip


@dataclass
class Rank(_Within):
    """Two layers in a row in place of one, with few channels between them.

    - How it cuts: no index goes; the weight becomes the product of two.
    - What it costs: the two weights in place of the one.
    - How it is proven: the two layers compute what the one does with their product as its weight.

    Attributes:
        weight: The weight's name.
        shape: Its shape.
        rank: Channels between the two layers; in each group, of a grouped convolution.
    """

    weight: str
    shape: tuple[int, ...]
    rank: int

    kind: ClassVar[str] = "rank"
    proof: ClassVar[str] = "two layers equal the one with their product as its weight"

    def find(self, deps: Dependencies) -> Value:
        """The weight in a model's analysis.

        Raises:
            PlanError: The model has no such weight, or one of another shape.
        """
        return _weight(deps, self.weight, self.shape, "factors")

    def check(self, deps: Dependencies) -> None:
        """Refuse a rank that the weight cannot have.

        Raises:
            PlanError: There is no such weight, or the rank is no whole number from 1 up to what
                the weight's dimensions allow.
        """
        self.find(deps)
        if len(self.shape) < 2:
            raise PlanError(f"{self.weight} is a row of numbers, which has no rank")
        first, second, *taps = self.shape
        most = max(min(first, second * prod(taps)), min(second, first * prod(taps)))
        if isinstance(self.rank, bool) or not isinstance(self.rank, int | np.integer):
            raise PlanError(f"{self.weight}: a rank is a whole number, not {self.rank!r}")
        if not 1 <= self.rank <= most:
            raise PlanError(f"{self.weight}: ranks run from 1 to {most}, not {self.rank}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Rank:
        """The edit from plain data.

        Raises:
            PlanError: Something is missing or wrong.
        """
        try:
            shape = tuple(int(size) for size in data["shape"])
            return cls(str(data["weight"]), shape, int(data["rank"]))
        except (KeyError, TypeError, ValueError) as error:
            raise PlanError(f"a rank lacks its weight, shape or number: {error!r}") from error

    def as_dict(self) -> dict[str, Any]:
        """The edit as plain data."""
        return {
            "kind": self.kind, "weight": self.weight, "shape": list(self.shape),
            "rank": int(self.rank),
        }  # fmt: skip


def _array(kept: Any, where: str) -> Any:
    """Indices as an array, of whatever they are.

    Raises:
        PlanError: They make no array.
    """
    try:
        return np.asarray(kept)
    except (ValueError, TypeError) as error:
        raise PlanError(f"{where} is {kept!r}: it is a list of whole numbers") from error


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
