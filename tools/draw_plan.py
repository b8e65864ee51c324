#!/usr/bin/env python
"""Draws what a plan keeps: one bar per layer, one stripe per channel that stays.

    python tools/draw_plan.py graphprune.demo:DigitsNet --plan graphprune-demo/plan.json -o plan.svg
    python tools/draw_plan.py resnet18 --ratio 0.3 -o plan.svg

Layers of one coupled group share a colour and keep the same indices.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import graphprune
from graphprune.core.axes import atoms
from graphprune.core.indices import Indices, kept_indices
from graphprune.models import load_model

LABELS, BAR, COUNTS = 150, 400, 90  # widths of the three columns, in units of the picture
ROW, HEIGHT = 24, 16  # distance of two rows, and height of a bar
TOP = 30  # room for the title
LOCKED = "#8b8b8b"
COLOURS = ("#2a78d6", "#d9722b", "#2f9e6e", "#a45ac4", "#c93d5d", "#7d7a1e", "#1798a8", "#8a5a3c")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-weight:600;font-size:13px}"
    ".b{fill:#e4e7eb}@media(prefers-color-scheme:dark){text{fill:#e6e6e6}.b{fill:#3a3f46}}"
)


@dataclass(frozen=True)
class Row:
    """One layer: its name, how many outputs it has, which stay, and its coupled group."""

    name: str
    size: int
    kept: Indices
    group: int | None


def rows(plan: graphprune.Plan[Any]) -> Iterator[Row]:
    """The layers with a weight of at least two dimensions, in the order of the graph."""
    work = plan.live()
    deps = work.deps
    number = {group.axis: group.id for group in deps.groups}
    for value in deps.source.parameters():
        if len(value.shape) < 2:
            continue
        dim = deps.dims[value][0]
        groups = [number[axis] for axis in atoms(dim) if axis in number]
        kept = kept_indices(dim, work.selection.keep)
        everything = np.arange(value.shape[0])
        name = value.name.removesuffix(".weight")
        stays = everything if kept is None else kept
        yield Row(name, value.shape[0], stays, groups[0] if groups else None)


def runs(kept: Indices) -> Iterator[tuple[int, int]]:
    """Neighbouring indices, as first index and length."""
    for run in np.split(kept, np.flatnonzero(np.diff(kept) != 1) + 1):
        if len(run):
            yield int(run[0]), len(run)


def svg(title: str, layers: list[Row]) -> str:
    """The picture."""
    width, height = LABELS + BAR + COUNTS, TOP + ROW * len(layers) + 4
    largest = max(row.size for row in layers)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(title)}"><style>{STYLE}</style>',
        f'<text class="t" x="0" y="16">{escape(title)}</text>',
    ]
    for i, row in enumerate(layers):
        y = TOP + ROW * i
        unit = BAR / largest
        fill = LOCKED if row.group is None else COLOURS[row.group % len(COLOURS)]
        stripes = "".join(
            f"M{LABELS + start * unit:.4g} {y}h{count * unit:.4g}v{HEIGHT}h-{count * unit:.4g}z"
            for start, count in runs(row.kept)
        )
        end = LABELS + row.size * unit
        counts = f"{row.size} → {len(row.kept)}" if len(row.kept) < row.size else f"{row.size}"
        note = " locked" if row.group is None else ""
        parts += [
            f'<text x="{LABELS - 8}" y="{y + 12}" text-anchor="end">{escape(row.name)}</text>',
            f'<rect class="b" x="{LABELS}" y="{y}" width="{row.size * unit:.4g}" '
            f'height="{HEIGHT}"/><path fill="{fill}" d="{stripes}"/>',
            f'<text x="{end + 8:.4g}" y="{y + 12}">{counts}{note}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="as for graphprune: timm:NAME, pkg.mod:factory, ...")
    parser.add_argument("--plan", type=Path, help="a plan that was saved; else one is made")
    parser.add_argument("--ratio", type=float, default=0.5)
    parser.add_argument("-o", "--out", type=Path, default=Path("plan.svg"))
    given = parser.parse_args()
    model = load_model(given.model, None)
    if given.plan is None:
        plan = graphprune.plan(model, given.ratio, compensate=False)
    else:
        plan = graphprune.load_plan(given.plan)
        plan.options = replace(plan.options, compensate=False)  # only the indices are drawn
    plan.apply(model)
    assert plan.report is not None
    before, after = plan.report.params
    title = f"{plan.report.model}: {before:,} → {after:,} parameters"
    given.out.write_text(svg(title, list(rows(plan))))


if __name__ == "__main__":
    main()
