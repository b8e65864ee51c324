"""explain: why two layers are coupled, as chains of the operations between them.

What an operation couples is found by running its rule once more on fresh axes: what then shares
an axis is coupled by this operation and by nothing else.

A chain alternates between dimensions and operations. A further chain is a reason of its own where
it takes an operation that no earlier one takes, and as few of theirs as can be.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import networkx as nx

from graphprune.core.axes import Axis, atom, atoms
from graphprune.core.errors import AxisError
from graphprune.core.graph import Op, Value

if TYPE_CHECKING:
    from graphprune.core.groups import Dependencies, Group, Infer

Node: TypeAlias = tuple[str, int]
"""A dimension: the name of a value, and the dimension's number."""

TOLD = 8
"""Reasons that are told of one group at most; further ones are counted."""

_SOUGHT = 100  # reasons of one group that are looked for


@dataclass(frozen=True, eq=False)
class Coupling:
    """Dimensions that one operation makes the same.

    Attributes:
        op: The operation.
        nodes: The dimensions: two at least, operands first.
    """

    op: Op
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Step:
    """One operation of a chain.

    Attributes:
        op: The operation.
        word: What it does with the dimension before and the one behind, in words.
        to: The dimension behind it.
    """

    op: Op
    word: str
    to: Node


@dataclass(frozen=True)
class Reason:
    """A chain of operations that couples two layers.

    Attributes:
        group: The coupled group that both hold.
        start: The dimension of the first layer that it starts at.
        steps: The operations on the way to the other layer, each with the dimension behind it.
    """

    group: Group
    start: Node
    steps: tuple[Step, ...]

    def lines(self) -> list[str]:
        """Dimensions, and between them the operations and what they do."""
        out = [text_of(self.start)]
        for step in self.steps:
            out += [f"  {step.op.type} ({step.op.name}) {step.word}", text_of(step.to)]
        return out


@dataclass(frozen=True)
class Reasons:
    """Why two layers are coupled by one group.

    Attributes:
        group: The group.
        told: The reasons, the shortest first, at most `TOLD`.
        left: How many more there are.
        needed: Operations that every chain takes, told or not, those of the two layers apart:
            without one of them the group would not couple the two.
    """

    group: Group
    told: tuple[Reason, ...]
    left: int
    needed: tuple[Op, ...]


def coupling_graph(couplings: Iterable[Coupling], deps: Dependencies) -> nx.MultiGraph[Any]:
    """A graph of (value name, dimension) whose edges carry `op`, `type` and `module`.

    Nodes carry `size`, `kind` and `groups`: the ids of the groups whose axes they hold. An edge's
    key is the name of its operation, as several may couple the same two dimensions.
    """
    graph: nx.MultiGraph[Any] = nx.MultiGraph()
    ids = {group.axis: group.id for group in deps.groups}
    for value, dims in deps.dims.items():
        for number, dim in enumerate(dims):
            held = sorted({ids[axis] for axis in atoms(dim) if axis in ids})
            graph.add_node(
                (value.name, number), size=value.shape[number], kind=value.kind, groups=held
            )
    for found in couplings:
        op, first = found.op, found.nodes[0]
        for other in found.nodes[1:]:
            graph.add_edge(first, other, op.name, op=op.name, type=op.type, module=op.module)
    return graph


def couplings_of(ops: Iterable[Op], infer: Infer) -> Iterator[Coupling]:
    """What each operation couples: one entry for each axis that several dimensions share."""
    for op in ops:
        operands = list(dict.fromkeys(value for value in op.inputs if value is not None))
        local = {value: [atom(size) for size in value.shape] for value in operands}
        results, _ = infer(op, local)
        holders: dict[Axis, list[Node]] = {}
        named: list[tuple[Value, Any]] = [*local.items(), *zip(op.outputs, results, strict=False)]
        for value, dims in named:
            for number, dim in enumerate(dims):
                for axis in dict.fromkeys(atoms(dim)):
                    holders.setdefault(axis, []).append((value.name, number))
        for nodes in dict.fromkeys(tuple(held) for held in holders.values() if len(held) > 1):
            yield Coupling(op, nodes)


def reasons(deps: Dependencies, a: str, b: str) -> list[Reasons]:
    """Every independent reason why two layers are coupled, for each group that both hold.

    Args:
        deps: The analysis.
        a: A layer, a weight or one dimension of it.
        b: Another.

    Raises:
        AxisError: A name matches no weight.
    """
    starts, goals = nodes_of(deps, a), nodes_of(deps, b)
    holding: Any = deps.graph.nodes(data="groups")
    found, known = [], []
    for group in deps.groups:
        within = [node for node, held in holding if group.id in held]
        mesh = _Mesh(within, starts, goals, deps.couplings)
        paths = list(mesh.paths())
        if paths and paths not in known:  # axes of one dimension go the same ways
            known.append(paths)
            told = tuple(_told(deps, group, path) for path in paths[:TOLD])
            needed = tuple(mesh.needed(paths))
            found.append(Reasons(group, told, len(paths) - len(told), needed))
    return sorted(found, key=lambda each: len(each.told[0].steps))


_Path: TypeAlias = "tuple[Node | Coupling, ...]"


class _Mesh:
    """The dimensions that hold one group and what couples them, between two layers."""

    def __init__(
        self,
        within: Collection[Node],
        starts: Collection[Node],
        goals: Collection[Node],
        couplings: Iterable[Coupling],
    ) -> None:
        self.held = set(within)
        self.starts = [node for node in starts if node in self.held]
        self.goals = [node for node in goals if node in self.held]
        self.graph: nx.Graph[Any] = nx.Graph()
        self.graph.add_nodes_from(within)
        self.graph.add_edges_from(("from", node) for node in self.starts)
        self.graph.add_edges_from(("to", node) for node in self.goals)
        for coupling in couplings:
            met = [node for node in coupling.nodes if node in self.held]
            if len(met) > 1:
                self.graph.add_edges_from((coupling, node) for node in met)

    def paths(self) -> Iterator[_Path]:
        """Chains, each with an operation that no earlier one takes, the shortest first."""
        if not self.starts or not self.goals:
            return
        taken: set[Coupling] = set()
        dear = self.graph.number_of_nodes()  # more than any way around is long

        def cost(_: Any, node: Any, __: Any) -> int:
            return dear if node in taken else 1

        for number in range(_SOUGHT):
            try:
                path = nx.dijkstra_path(self.graph, "from", "to", cost)[1:-1]
            except nx.NetworkXNoPath:
                return
            new = {node for node in path if isinstance(node, Coupling)} - taken
            if number and not new:
                return
            taken |= new
            yield tuple(path)

    def needed(self, paths: Iterable[_Path]) -> Iterator[Op]:
        """Operations that every chain takes, those at its ends apart."""
        first, *others = ([x for x in path if isinstance(x, Coupling)] for path in paths)
        for coupling in first[1:-1]:
            if all(coupling in other for other in others):
                rest = nx.restricted_view(self.graph, [coupling], [])
                if not nx.has_path(rest, "from", "to"):
                    yield coupling.op


def _told(deps: Dependencies, group: Group, path: _Path) -> Reason:
    """A chain as steps, with what each operation does in words."""
    start = path[0]
    assert not isinstance(start, Coupling)
    steps, last = [], start
    for coupling, node in zip(path[1::2], path[2::2], strict=True):
        assert isinstance(coupling, Coupling) and not isinstance(node, Coupling)
        steps.append(Step(coupling.op, _word(coupling.op, last, node, deps.source.weights), node))
        last = node
    return Reason(group, start, tuple(steps))


def _word(op: Op, last: Node, node: Node, weights: Mapping[str, Value]) -> str:
    """What an operation does with two dimensions, by the parts that they have in it."""
    made = {value.name for value in op.outputs}
    if last[0] in made:
        return "makes it along with" if node[0] in made else "makes it from"
    if node[0] in made:
        return "uses it to make" if last[0] in weights else "passes it on as"
    if node[0] in weights and last[0] not in weights:
        return "reads it with"
    return "takes it together with"


def sentences(deps: Dependencies, a: str, b: str) -> list[str]:
    """The reasons in plain words, as lines; none where nothing couples the two."""
    found = reasons(deps, a, b)
    total = sum(len(each.told) + each.left for each in found)
    if not total:
        return []
    many = "one reason" if total == 1 else f"{total} independent reasons"
    lines = [f"{a} and {b} lose the same indices, for {many}:"]
    number = 0
    for each in found:
        for reason in each.told:
            number += 1
            head = f"{number}. " if total > 1 else ""
            lines += ["", f"{head}both hold the {each.group.size} indices of {each.group.name}:"]
            lines += reason.lines()
        if each.left:
            lines += ["", f"and {each.left} more by {each.group.name}"]
        if each.needed and len(each.told) > 1:  # of a single chain it is plain to see
            names = dict.fromkeys(f"{op.type} ({op.name})" for op in each.needed)
            lines += ["", f"all chains by {each.group.name} take {', '.join(names)}"]
    return lines


def text_of(node: Node) -> str:
    """A dimension as text: `conv1.weight[0]`."""
    return f"{node[0]}[{node[1]}]"


def nodes_of(deps: Dependencies, name: str) -> list[Node]:
    """The dimensions of a layer, of a weight, or the one that is named.

    Raises:
        AxisError: The name matches no weight.
    """
    match = re.fullmatch(r"(.*)\[(\d+)\]", name)
    base, number = (match.group(1), int(match.group(2))) if match else (name, None)
    found: list[Node] = []
    for value in deps.source.weights.values():
        if any(
            alias == base or alias.startswith(f"{base}.") for alias in (value.name, *value.aliases)
        ):
            found += [(value.name, d) for d in range(len(value.shape)) if number in (None, d)]
    if not found:
        raise AxisError(f"no weight is called {name!r}")
    return found
