"""Prints source files that have grown long, and how the folders import each other.

Nothing here fails: it shows where the house wants tidying. Reads the code as text, runs nothing.

    python tools/house.py
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONG = 350  # lines from which a file tells more than one story
# Folders from the lowest to the highest: none imports from one behind it.
ORDER = (
    *("core", "rules", "engine", "costs", "statistics", "importance", "compensation", "choice"),
    *("frontends", "passes", "report"),
)


def sources() -> list[Path]:
    """Every source file, `passes/` once."""
    found = [*ROOT.glob("graphprune/**/*.py"), *ROOT.glob("passes/**/*.py")]
    return sorted(path for path in found if "graphprune/passes" not in path.as_posix())


def room(parts: tuple[str, ...]) -> str:
    """The folder below `graphprune` that a module stands in, or `face`."""
    return parts[0] if parts and parts[0] in (*ORDER, "testing") else "face"


def imports(path: Path) -> Iterator[tuple[str, ...]]:
    """What a file imports of graphprune, inside functions too: the parts below `graphprune`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "graphprune":
                yield tuple(rest)


def arrows() -> Counter[tuple[str, str]]:
    """How many imports lead from one room to another."""
    out: Counter[tuple[str, str]] = Counter()
    for path in sources():
        parts = path.relative_to(ROOT).with_suffix("").parts
        here = room(parts if parts[0] == "passes" else parts[1:])
        out.update((here, there) for there in map(room, imports(path)) if there != here)
    return out


def main() -> None:
    """Print both."""
    for path in sources():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LONG:
            print(f"{path.relative_to(ROOT)}: {lines} lines")
    found = arrows()
    ranks = {name: rank for rank, name in enumerate((*ORDER, "testing", "face"))}
    upwards = [pair for pair in sorted(found) if ranks[pair[0]] < ranks[pair[1]]]
    print(
        f"{sum(found.values())} imports along {len(found)} arrows, {len(upwards)} of them upwards"
    )
    for here, there in upwards:
        print(f"  {here} -> {there} ({found[here, there]})")


if __name__ == "__main__":
    main()
