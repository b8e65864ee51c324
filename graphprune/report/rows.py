"""The rows of a report: groups, layers, zeros, ranks, locks."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from graphprune.core.groups import Dependencies, Lock


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One coupled group.

    Attributes:
        name: Its first member, and what tells it from another group that starts there.
        size: How many indices it has.
        kept: How many stay.
        members: How many dimensions of weights hold it.
        reasons: Of indices that went at no cost, how many for which reason: `zero`,
            `constant`, `unread`.
        curve: Scores in the order in which indices go, at most a hundred of them; empty where the
            plan was loaded.
    """

    name: str
    size: int
    kept: int
    members: int
    reasons: dict[str, int] = field(default_factory=dict)
    curve: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LayerRow:
    """A layer that became sparse: its weight, how many numbers it holds, and how many are zero."""

    name: str
    size: int
    zeros: int


@dataclass
class Sparse:
    """What became zero.

    Attributes:
        pattern: How the zeros lie.
        how: How they were chosen and spread.
        layers: One row for each sparse layer.
        whole: Parameters of the model, those of other layers included.
        gzip: Bytes of the sparse layers once compressed, before and after, from a slice of each.
        left: Weights that are left alone, with the reason.
    """

    pattern: str
    how: str
    layers: list[LayerRow]
    whole: int
    gzip: tuple[int, int] | None = None
    left: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Numbers of all sparse layers."""
        return sum(row.size for row in self.layers)

    @property
    def zeros(self) -> int:
        """Zeros among them."""
        return sum(row.zeros for row in self.layers)


@dataclass(frozen=True, slots=True)
class RankRow:
    """A layer that became two.

    Attributes:
        name: Its weight.
        outputs: Rows of the weight as a matrix, in each group of a grouped convolution.
        columns: Columns: channels times places of a kernel.
        rank: Channels between the two layers.
    """

    name: str
    outputs: int
    columns: int
    rank: int


@dataclass
class LowRank:
    """The layers that became two.

    Attributes:
        layers: One row for each of them.
        left: Weights that stay whole although two layers would cost less, with the reason.
        in_file: Whether they are nodes of a file rather than modules.
    """

    layers: list[RankRow]
    left: dict[str, str] = field(default_factory=dict)
    in_file: bool = False


@dataclass(frozen=True, slots=True)
class WidthRow:
    """One weight of at least two dimensions.

    Attributes:
        name: The layer's.
        size: Outputs before.
        kept: Outputs after.
        group: The place of the outputs' first coupled group; None where they are locked.
    """

    name: str
    size: int
    kept: int
    group: int | None


def lock_reasons(deps: Dependencies) -> dict[str, int]:
    """How many axes of weights, kernels apart, are locked for each reason."""
    reasons = (re.sub(r" at \S+$", "", lock.reason) for lock in deps.locks if not _is_kernel(lock))
    return dict(Counter(reasons).most_common())


def _is_kernel(lock: Lock) -> bool:
    """Whether an axis is a side of a window; windows may run along channels too (ECA)."""
    window = lock.reason.startswith("consumed by a window")
    return window and all(member.dim >= 2 for member in lock.members)
