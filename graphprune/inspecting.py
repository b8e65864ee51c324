"""The analysis as text."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence

from graphprune.core.explain import nodes_of
from graphprune.core.groups import Dependencies, Group, Lock, Member
from graphprune.core.views.chosen import chosen, touched

_WINDOW = "consumed by a window"


def describe(deps: Dependencies, layer: str | None = None) -> str:
    """Coupled groups and locks as text, always in the same order.

    Args:
        deps: The analysis.
        layer: Only what touches this layer or weight; `*` and `?` match any text.

    Raises:
        AxisError: No weight matches `layer`.
    """
    lines: list[str] = []
    for group in chosen(deps, layer):
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


def _members(members: Sequence[Member]) -> list[str]:
    text = ", ".join(map(str, members))
    return textwrap.wrap(
        text, 96, initial_indent="    ", subsequent_indent="    ", break_long_words=False
    )


def _lock_lines(deps: Dependencies, layer: str | None) -> Iterator[str]:
    by_reason: dict[str, list[Member]] = {}
    windows = 0
    values = None if layer is None else touched(deps, layer)
    for lock in deps.locks:
        if values is not None and not any(member.weight in values for member in lock.members):
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
    """Every reason why two layers are coupled, or that nothing does, and what each holds."""
    lines = deps.why(a, b)
    if not lines:
        lines = [f"nothing couples {a} and {b}: no removable axis is common to both"]
        for name in (a, b):
            lines += _held(deps, name)
    return "\n".join(lines) + "\n"


def _held(deps: Dependencies, name: str) -> Iterator[str]:
    """What the dimensions of a layer hold."""
    nodes = set(nodes_of(deps, name))
    everything: list[Group | Lock] = [*deps.groups, *deps.locks]
    for held in everything:
        own = [str(m) for m in held.members if (m.weight.name, m.dim) in nodes]
        if own:
            what = f"locked, {held.reason}" if isinstance(held, Lock) else f"group {held.name}"
            yield f"  {', '.join(own)}: {what}"
