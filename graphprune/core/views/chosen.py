"""What a view shows: all of an analysis, or what concerns one layer."""

from __future__ import annotations

import difflib

from graphprune.core.errors import AxisError
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies, Group, matches


def chosen(deps: Dependencies, layer: str | None) -> list[Group]:
    """The groups that a layer holds; all of them where none is named.

    Args:
        deps: The analysis.
        layer: A layer or weight; `*` and `?` match any text.

    Raises:
        AxisError: No weight matches; names close ones.
    """
    if layer is None:
        return list(deps.groups)
    values = touched(deps, layer)
    return [group for group in deps.groups if any(m.weight in values for m in group.members)]


def touched(deps: Dependencies, layer: str) -> set[Value]:
    """The weights of a layer; errors as for `chosen`."""
    found = {value for value in deps.source.weights.values() if matches(value, layer)}
    if not found:
        names = list(deps.source.weights)
        layers = {name.rpartition(".")[0] for name in names} | set(names)
        close = difflib.get_close_matches(layer, sorted(layers), 3, 0.4)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise AxisError(f"no layer is called {layer!r}{hint}")
    return found
