"""explain: why two layers are coupled, as a path through the operations between them.

The edges are found by running each operation's rule once more on fresh axes: what then shares
an axis is coupled by this operation and by nothing else.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import networkx as nx

from graphprune.core.axes import Axis, atom, atoms
from graphprune.core.errors import AxisError
from graphprune.core.graph import Op, Value

if TYPE_CHECKING:
    from graphprune.core.groups import Dependencies, Infer

Node: TypeAlias = tuple[str, int]


def coupling_graph(deps: Dependencies) -> nx.Graph[Any]:
    """A graph of (value name, dimension) whose edges carry `op` and `type`.

    Nodes carry `size`, `kind` and `groups`: the ids of the groups whose axes they hold.
    """
    graph: nx.Graph[Any] = nx.Graph()
    ids = {group.axis: group.id for group in deps.groups}
    for value, dims in deps.dims.items():
        for number, dim in enumerate(dims):
            held = sorted({ids[axis] for axis in atoms(dim) if axis in ids})
            graph.add_node(
                (value.name, number), size=value.shape[number], kind=value.kind, groups=held
            )
    for op in deps.source.ops + deps.source.training:
        for a, b in _couplings(op, deps.infer):
            graph.add_edge(a, b, op=op.name, type=op.type, module=op.module)
    return graph


def _couplings(op: Op, infer: Infer) -> list[tuple[Node, Node]]:
    operands = list(dict.fromkeys(value for value in op.inputs if value is not None))
    local = {value: [atom(size) for size in value.shape] for value in operands}
    results, _ = infer(op, local)
    holders: dict[Axis, list[Node]] = {}
    named: list[tuple[Value, Any]] = [*local.items(), *zip(op.outputs, results, strict=False)]
    for value, dims in named:
        for number, dim in enumerate(dims):
            for axis in dict.fromkeys(atoms(dim)):
                holders.setdefault(axis, []).append((value.name, number))
    pairs = ((held[0], other) for held in holders.values() for other in held[1:])
    return list(dict.fromkeys(pairs))


def chains(deps: Dependencies, a: str, b: str) -> list[list[str]]:
    """Every independent reason why two layers are coupled, the shortest first.

    There is one for each group that both hold: the shortest alternation of dimensions and
    operations from one layer to the other.
    """
    starts, goals = _nodes(deps, a), _nodes(deps, b)
    holding = {node: data["groups"] for node, data in deps.graph.nodes(data=True)}
    found: list[list[Node]] = []
    for group in deps.groups:
        within = deps.graph.subgraph([node for node in holding if group.id in holding[node]])
        best: list[Node] = []
        for start in filter(within.has_node, starts):
            paths = nx.single_source_shortest_path(within, start)
            for goal in goals & set(paths):
                if not best or (len(paths[goal]), paths[goal]) < (len(best), best):
                    best = paths[goal]
        if best and best not in found:
            found.append(best)
    return [_told(deps, path) for path in sorted(found, key=len)]


def _told(deps: Dependencies, path: list[Node]) -> list[str]:
    """A path in words: dimensions, and the operations between them."""
    lines = [_text(node) for node in path[:1]]
    for last, node in pairwise(path):
        edge = deps.graph.edges[last, node]
        lines += [f"  {edge['type']} ({edge['op']})", _text(node)]
    return lines


def _text(node: Node) -> str:
    return f"{node[0]}[{node[1]}]"


def _nodes(deps: Dependencies, name: str) -> set[Node]:
    match = re.fullmatch(r"(.*)\[(\d+)\]", name)
    base, number = (match.group(1), int(match.group(2))) if match else (name, None)
    found: set[Node] = set()
    for value in deps.source.weights.values():
        if any(
            alias == base or alias.startswith(f"{base}.") for alias in (value.name, *value.aliases)
        ):
            found |= {(value.name, d) for d in range(len(value.shape)) if number in (None, d)}
    if not found:
        raise AxisError(f"no weight is called {name!r}")
    return found
