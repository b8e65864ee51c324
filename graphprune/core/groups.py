"""What the analysis finds: coupled groups, locks, and why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import networkx as nx
import numpy as np
import numpy.typing as npt

from graphprune.core.axes import Axis, atoms
from graphprune.core.effect import Dims, Effect
from graphprune.core.errors import AxisError
from graphprune.core.explain import (
    Coupling,
    Reasons,
    coupling_graph,
    couplings_of,
    reasons,
    sentences,
)
from graphprune.core.files import check_target, write_whole
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.indices import Indices
from graphprune.core.markup import heading, table

Infer: TypeAlias = "Callable[[Op, Mapping[Value, Dims]], tuple[list[Dims], Effect]]"
"""Applies the rule of one operation: dimensions of its results, and what it does with axes."""

Counts: TypeAlias = npt.NDArray[np.float64]
"""How many indices each group keeps."""


@dataclass(frozen=True, slots=True)
class Member:
    """A dimension of a weight that holds a group's axis."""

    weight: Value
    dim: int

    def __str__(self) -> str:
        return f"{self.weight.name}[{self.dim}]"


@dataclass(frozen=True, slots=True)
class Group:
    """A coupled group: an axis whose indices may be removed, and all weights that hold it.

    Attributes:
        id: Its place in `Dependencies.groups`.
        axis: The axis. One index of it is the smallest unit of removal.
        members: The weight dimensions that lose the slices an index owns.
        grain: Kept counts are multiples of this, for the sake of a kernel that asks for it.
        label: What tells it from another group that starts with the same dimension; else empty.
    """

    id: int
    axis: Axis
    members: tuple[Member, ...]
    grain: int = 1
    label: str = ""

    @property
    def size(self) -> int:
        """Number of indices."""
        return self.axis.size

    @property
    def first(self) -> str:
        """The first member's name, dimension included: `layer1.0.conv1.weight[0]`."""
        return str(self.members[0])

    @property
    def name(self) -> str:
        """The first member's name, and where two groups share it, which of them this is."""
        return f"{self.first} {self.label}".rstrip()


@dataclass(frozen=True, slots=True)
class Lock:
    """An axis of some weight whose indices must stay, and why."""

    size: int
    reason: str
    members: tuple[Member, ...]


@dataclass(repr=False)
class Dependencies:
    """The result of the analysis.

    Attributes:
        source: The analysed graph.
        dims: The dimensions of every value, as axes.
        effects: What every operation contracts, mixes and costs.
        groups: The coupled groups, in the order of their first weight.
        locks: Axes of weights that must stay, with reasons.
        infer: Applies the rule of one operation to dimensions of its operands.
        unknown: Types of operations without a rule, with the names of those operations.
    """

    source: Graph
    dims: Mapping[Value, Dims]
    effects: Mapping[Op, Effect]
    infer: Infer = field(repr=False)
    groups: list[Group] = field(default_factory=list)
    locks: list[Lock] = field(default_factory=list)
    unknown: dict[str, list[str]] = field(default_factory=dict)

    def group(self, name: str) -> Group:
        """The group with a member of this name, `layer1.0.conv1.weight[0]`.

        Raises:
            AxisError: No group has such a member.
        """
        for group in self.groups:
            if group.name == name or any(str(member) == name for member in group.members):
                return group
        raise AxisError(f"no coupled group holds {name!r}; `analyze(model).groups` lists them")

    def sizes(self) -> Counts:
        """The number of indices of every group."""
        return np.array([group.size for group in self.groups], dtype=np.float64)

    def counts(self, keep: Mapping[Axis, Indices]) -> Counts:
        """How many indices every group keeps.

        Args:
            keep: Sorted indices that stay, for each axis that loses some.
        """
        kept = ((g.axis, g.size) for g in self.groups)
        return np.array([len(keep[a]) if a in keep else n for a, n in kept], dtype=np.float64)

    def reachable(self) -> float:
        """Share of the parameters (elements) that have at least one removable axis."""
        free = {group.axis for group in self.groups}
        total, reached = self.source.outside, 0
        for value in self.source.parameters():
            size = value.tensor.numel() if hasattr(value.tensor, "numel") else value.tensor.size
            total += size
            if any(axis in free for dim in self.dims[value] for axis in atoms(dim)):
                reached += size
        return reached / total if total else 0.0

    @cached_property
    def couplings(self) -> list[Coupling]:
        """What each operation makes the same."""
        return list(couplings_of(self.source.ops + self.source.training, self.infer))

    @cached_property
    def graph(self) -> nx.MultiGraph[Any]:
        """How dimensions hold together: nodes are (value, dimension), edges carry the op."""
        return coupling_graph(self.couplings, self)

    def why(self, a: str, b: str) -> list[str]:
        """Why two layers are coupled, in plain words: every independent reason.

        A reason is a chain of operations from one to the other. A further chain counts where it
        takes an operation that no other one takes.

        Args:
            a: A layer or weight name, or one dimension of it: `conv1`, `conv1.weight`,
                `conv1.weight[0]`.
            b: Another.

        Returns:
            Lines of text: how many reasons there are, each chain with the group that both hold,
            how many more there are than are told, and what every chain takes. Nothing where
            nothing couples the two.

        Raises:
            AxisError: A name matches no weight.
        """
        return sentences(self, a, b)

    def reasons(self, a: str, b: str) -> list[Reasons]:
        """The same as data: for each group that both hold, its chains.

        Args:
            a: As for `why`.
            b: Another.

        Raises:
            AxisError: A name matches no weight.
        """
        return reasons(self, a, b)

    def as_dict(self) -> dict[str, Any]:
        """Groups, locks, unknown operations, and the coupling graph as plain data."""
        from graphprune.core.views.exchange import as_dict

        return as_dict(self)

    def as_dot(self, layer: str | None = None) -> str:
        """The coupling graph for Graphviz.

        Args:
            layer: Only the groups that this layer or weight holds; `*` and `?` match any text.

        Raises:
            AxisError: No weight matches.
        """
        from graphprune.core.views.exchange import as_dot

        return as_dot(self, layer)

    def as_graphml(self, layer: str | None = None) -> str:
        """The coupling graph in GraphML, for Gephi and networkx; arguments as for `as_dot`."""
        from graphprune.core.views.exchange import as_graphml

        return as_graphml(self, layer)

    def as_html(self, layer: str | None = None, why: tuple[str, str] | None = None) -> str:
        """The network as a page in one file, with its groups, locks and couplings.

        Args:
            layer: As for `as_dot`.
            why: Two layers whose chains are lit when the page opens.

        Raises:
            AxisError: A name matches no weight.
        """
        from graphprune.core.views.page import page

        return page(self, layer, why)

    def save(
        self, path: str | Path, layer: str | None = None, why: tuple[str, str] | None = None
    ) -> None:
        """Write the analysis, whole or not at all: `.html`, `.dot`, `.graphml` or `.json`.

        Args:
            path: Where to write.
            layer: As for `as_dot`; JSON always holds everything.
            why: As for `as_html`.

        Raises:
            GraphPruneError: The file cannot be written, or ends otherwise.
            AxisError: A name matches no weight.
        """
        target = check_target(path, (".html", ".dot", ".graphml", ".json"))
        if target.suffix == ".html":
            text = self.as_html(layer, why)
        elif target.suffix == ".json":
            text = json.dumps(self.as_dict(), indent=1) + "\n"
        else:
            text = self.as_dot(layer) if target.suffix == ".dot" else self.as_graphml(layer)
        write_whole(target, text.encode())

    def __repr__(self) -> str:
        return f"Dependencies({self._sentence()})"

    def _sentence(self) -> str:
        shares = f"{self.reachable():.1%} of the parameters have a removable axis"
        return f"{len(self.groups)} groups, {len(self.locks)} locks, {shares}"

    def _repr_html_(self) -> str:
        """The groups as a table, for notebooks."""
        rows = [(group.name, group.size, len(group.members)) for group in self.groups]
        return heading(self._sentence()) + table(("group", "indices", "weights"), rows)


def matches(value: Value, pattern: str) -> bool:
    """Whether a pattern names a weight or a module that holds it."""
    return any(
        fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
        for name in (value.name, *value.aliases)
    )
