"""The edit that removes indices: some of a coupled group stay, the others go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from graphprune.core.axes import Axis
from graphprune.core.errors import PlanError
from graphprune.core.groups import Counts, Dependencies, Group
from graphprune.core.indices import Indices


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


def _array(kept: Any, where: str) -> Any:
    """Indices as an array, of whatever they are.

    Raises:
        PlanError: They make no array.
    """
    try:
        return np.asarray(kept)
    except (ValueError, TypeError) as error:
        raise PlanError(f"{where} is {kept!r}: it is a list of whole numbers") from error
