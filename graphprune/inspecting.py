"""The analysis as text, JSON, Graphviz or GraphML."""

from __future__ import annotations

import difflib
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import networkx as nx

from graphprune.core.errors import AxisError
from graphprune.core.groups import Dependencies, Member

_WINDOW = "consumed by a window"


def describe(deps: Dependencies, layer: str | None = None) -> str:
    """Coupled groups and locks as text, always in the same order.

    Args:
        deps: The analysis.
        layer: Only what touches this layer or weight; `*` and `?` match any text.

    Raises:
        AxisError: No weight matches `layer`.
    """
    if layer is not None:
        _check_layer(deps, layer)
    lines: list[str] = []
    for group in deps.groups:
        if _touches(group.members, layer):
            told = f" ({group.label})" if group.label else ""
            lines.append(f"group {group.id}{told}: {group.size} indices")
            lines += _members(group.members)
    lines += _lock_lines(deps, layer)
    for kind, names in deps.unknown.items():
        lines.append(f"no rule for {kind}: {', '.join(names)}")
    lines.append(
        f"{len(deps.groups)} groups; {deps.reachable():.1%} of the parameters have a removable axis"
    )
    return "\n".join(lines) + "\n"


def _touches(members: Sequence[Member], layer: str | None) -> bool:
    return layer is None or any(_matches(member.weight.name, layer) for member in members)


def _matches(name: str, layer: str) -> bool:
    return fnmatchcase(name, layer) or fnmatchcase(name, f"{layer}.*")


def _check_layer(deps: Dependencies, layer: str) -> None:
    names = list(deps.source.weights)
    if not any(_matches(name, layer) for name in names):
        layers = {name.rpartition(".")[0] for name in names} | set(names)
        close = difflib.get_close_matches(layer, sorted(layers), 3, 0.4)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise AxisError(f"no layer is called {layer!r}{hint}")


def _members(members: Sequence[Member]) -> list[str]:
    text = ", ".join(map(str, members))
    return textwrap.wrap(
        text, 96, initial_indent="    ", subsequent_indent="    ", break_long_words=False
    )


def _lock_lines(deps: Dependencies, layer: str | None) -> Iterator[str]:
    by_reason: dict[str, list[Member]] = {}
    windows = 0
    for lock in deps.locks:
        if not _touches(lock.members, layer):
            continue
        if lock.reason.startswith(_WINDOW):
            windows += 1
        else:
            by_reason.setdefault(re.sub(r" at \S+$", "", lock.reason), []).extend(lock.members)
    for reason, members in by_reason.items():
        yield f"locked, {reason}:"
        yield from _members(list(dict.fromkeys(members)))
    if windows:
        yield f"locked, {_WINDOW}: {windows} kernel dimensions"


def why_text(deps: Dependencies, a: str, b: str) -> str:
    """The chain of operations that couples two layers, or a line that says nothing does."""
    lines = deps.why(a, b)
    if not lines:
        return f"nothing couples {a} and {b}: no removable axis is common to both\n"
    return "\n".join(lines) + "\n"


def as_dict(deps: Dependencies) -> dict[str, Any]:
    """Groups, locks, unknown operations, and the coupling graph as plain data."""
    return {
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
        "nodes": [
            {"name": f"{name}[{dim}]", **data} for (name, dim), data in deps.graph.nodes(data=True)
        ],
        "edges": [
            {"a": f"{a[0]}[{a[1]}]", "b": f"{b[0]}[{b[1]}]", **data}
            for a, b, data in deps.graph.edges(data=True)
        ],
    }


def as_json(deps: Dependencies) -> str:
    """`as_dict` as text."""
    return json.dumps(as_dict(deps), indent=1) + "\n"


def as_graphml(deps: Dependencies) -> str:
    """The coupling graph in GraphML."""
    plain: nx.Graph[Any] = nx.Graph()
    for (name, dim), data in deps.graph.nodes(data=True):
        groups = " ".join(map(str, data["groups"]))
        plain.add_node(f"{name}[{dim}]", size=data["size"], kind=data["kind"], groups=groups)
    for a, b, data in deps.graph.edges(data=True):
        plain.add_edge(f"{a[0]}[{a[1]}]", f"{b[0]}[{b[1]}]", **data)
    return "\n".join(nx.generate_graphml(plain)) + "\n"


def as_dot(deps: Dependencies) -> str:
    """What the groups couple, for Graphviz: dimensions of one group share a colour."""
    lines = ["graph couplings {", "  node [shape=box, style=filled, colorscheme=set312];"]
    held = {node for node, groups in deps.graph.nodes(data="groups") if groups}
    for node in deps.graph.nodes:
        if node in held:
            data = deps.graph.nodes[node]
            colour = data["groups"][0] % 12 + 1
            shape = ", shape=ellipse" if data["kind"] == "result" else ""
            label = f"{node[0]}[{node[1]}]\\n{data['size']}"
            lines.append(f"  {_id(node)} [label={_quoted(label)}, fillcolor={colour}{shape}];")
    for a, b, data in deps.graph.edges(data=True):
        if a in held and b in held:
            lines.append(f"  {_id(a)} -- {_id(b)} [label={_quoted(data['type'])}];")
    return "\n".join([*lines, "}"]) + "\n"


def _id(node: tuple[str, int]) -> str:
    return _quoted(f"{node[0]}[{node[1]}]")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
