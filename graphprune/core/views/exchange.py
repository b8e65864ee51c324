"""An analysis for other programs: plain data, Graphviz, GraphML."""

from __future__ import annotations

import re
from typing import Any

import networkx as nx

from graphprune.core.explain import Node, text_of
from graphprune.core.groups import Dependencies
from graphprune.core.views.chosen import chosen

_COLOURS = 12  # of Graphviz's scheme set312
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # what XML cannot hold


SCHEMA = 1
"""The version of the analysis as data: it grows where a field is renamed or goes."""


def as_dict(deps: Dependencies) -> dict[str, Any]:
    """Groups, locks, unknown operations, and the coupling graph as plain data."""
    return {
        "schema": SCHEMA,
        "groups": [
            {"id": g.id, "name": g.name, "size": g.size, "members": [str(m) for m in g.members]}
            for g in deps.groups
        ],
        "locks": [
            {"size": k.size, "reason": k.reason, "members": [str(m) for m in k.members]}
            for k in deps.locks
        ],
        "unknown": deps.unknown,
        "reachable": deps.reachable(),
        "nodes": [{"name": text_of(node), **data} for node, data in deps.graph.nodes(data=True)],
        "edges": [
            {"a": text_of(a), "b": text_of(b), **data} for a, b, data in deps.graph.edges(data=True)
        ],
    }


def as_graphml(deps: Dependencies, layer: str | None = None) -> str:
    """The coupling graph in GraphML, its attributes typed.

    Dimensions have `label`, `size`, `kind`, `groups` (all of them, as text), `group` (the first; -1
    where there is none), `locked` and `reason`; edges `label`, `op`, `type` and `module`, and an id
    of their own.

    Args:
        deps: The analysis.
        layer: Only the groups that this layer holds.

    Raises:
        AxisError: No weight matches.
    """
    graph, reasons = _shown(deps, layer), _locked(deps)
    plain: nx.MultiGraph[Any] = nx.MultiGraph()
    for node, data in graph.nodes(data=True):
        held, reason = data["groups"], reasons.get(node, "")
        plain.add_node(
            _clean(text_of(node)),
            label=_clean(text_of(node)),
            size=data["size"],
            kind=data["kind"],
            groups=" ".join(map(str, held)),
            group=held[0] if held else -1,
            locked=bool(reason),
            reason=_clean(reason),
        )
    for number, (a, b, data) in enumerate(graph.edges(data=True)):
        told = {key: _clean(text) for key, text in data.items()}
        ends = _clean(text_of(a)), _clean(text_of(b))
        plain.add_edge(*ends, key=f"e{number}", label=told["type"], **told)
    return "\n".join(nx.generate_graphml(plain)) + "\n"


def as_dot(deps: Dependencies, layer: str | None = None) -> str:
    """The coupling graph for Graphviz: dimensions of one group share a colour, locks are dashed.

    Args:
        deps: The analysis.
        layer: Only the groups that this layer holds.

    Raises:
        AxisError: No weight matches.
    """
    graph, reasons = _shown(deps, layer), _locked(deps)
    lines = ["graph couplings {", "  node [shape=box, style=filled, colorscheme=set312];"]
    drawn = [node for node, held in graph.nodes(data="groups") if held or node in reasons]
    for node in drawn:
        data = graph.nodes[node]
        shape = "ellipse" if data["kind"] == "result" else "box"
        told = f"{text_of(node)}\n{data['size']}"
        if data["groups"]:
            look = f"fillcolor={data['groups'][0] % _COLOURS + 1}"
        else:
            told += f"\nlocked: {reasons[node]}"
            look = 'style=dashed, color="#a8321a"'
        lines.append(f"  {_quoted(text_of(node))} [label={_quoted(told)}, {look}, shape={shape}];")
    for a, b, data in graph.subgraph(drawn).edges(data=True):
        ends = f"{_quoted(text_of(a))} -- {_quoted(text_of(b))}"
        lines.append(f"  {ends} [label={_quoted(data['type'])}];")
    return "\n".join([*lines, "}"]) + "\n"


def _shown(deps: Dependencies, layer: str | None) -> nx.MultiGraph[Any]:
    """The part of the coupling graph that a view shows."""
    if layer is None:
        return deps.graph
    wanted = {group.id for group in chosen(deps, layer)}
    return deps.graph.subgraph(
        [node for node, held in deps.graph.nodes(data="groups") if wanted & set(held)]
    )


def _locked(deps: Dependencies) -> dict[Node, str]:
    """Why dimensions of weights are locked."""
    return {
        (member.weight.name, member.dim): lock.reason
        for lock in deps.locks
        for member in lock.members
    }


def _quoted(text: str) -> str:
    """Text as Graphviz reads it: a line break is written as one."""
    told = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{told}"'


def _clean(text: str) -> str:
    return _CONTROL.sub("?", text)
