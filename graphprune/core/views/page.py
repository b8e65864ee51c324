"""The analysis as one HTML file: a picture of the network to zoom, to search and to ask.

Layout and picture are made here, as SVG, and the file holds a few lines of script of its own. A
drawing library would weigh more than the picture, and could not lay out what has no browser yet.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from graphprune.core.explain import TOLD, Node, nodes_of
from graphprune.core.groups import Dependencies
from graphprune.core.views.boxes import Box, Cell, Row, Wire, boxes_of
from graphprune.core.views.chosen import chosen
from graphprune.core.views.layout import Point, placed

_WIDE = 260  # of a box
_HEAD, _LINE, _FOOT = 22, 18, 5  # heights of a box's title and rows, and of the space below
_SIDE = 8  # space left and right in a box
_CELL = 34  # width of a cell: five digits
_CELLS = 170  # width of a row's cells together, which are narrower where there are many
_LETTER = 6.3  # mean width of a letter
_MARGIN = 20  # around the picture
_TURN = 137.508  # degrees between the colours of two groups: the golden angle keeps all apart


def page(deps: Dependencies, layer: str | None = None, why: tuple[str, str] | None = None) -> str:
    """The picture of a network as HTML.

    Args:
        deps: The analysis.
        layer: Only the groups that this layer or weight holds; `*` and `?` match any text.
        why: Two layers whose chains are lit when the page opens.

    Raises:
        AxisError: A name matches no weight.
    """
    for name in why or ():
        nodes_of(deps, name)
    groups = chosen(deps, layer)
    boxes, wires = boxes_of(deps, {group.id for group in groups})
    drawing = _Picture(deps, boxes, wires)
    folder = files("graphprune.core.views")
    own = {
        name: Markup(folder.joinpath(f"page.{name}").read_text(encoding="utf-8"))
        for name in ("css", "js")
    }
    tools = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return tools.from_string(folder.joinpath("page.html.j2").read_text(encoding="utf-8")).render(
        title=_title(deps.source.name, layer),
        summary=f"{len(groups)} of {len(deps.groups)} groups, {len(boxes)} boxes; "
        f"{deps.reachable():.1%} of the parameters have a removable axis",
        hues=[(group.id, round(group.id * _TURN) % 360) for group in groups],
        groups=groups,
        locks=drawing.locks(),
        layers=drawing.layers(),
        unknown=deps.unknown,
        picture=Markup(drawing.svg()),
        width=round(drawing.width),
        height=round(drawing.height),
        data=Markup(drawing.data(list(why or ()))),
        **own,
    )


def _title(name: str, layer: str | None) -> str:
    """Whose groups are shown."""
    if not layer:
        return f"Coupled groups of {name or 'the model'}"
    return f"Coupled groups of {layer}" + (f" in {name}" if name else "")


class _Picture:
    """The picture, and the numbers that its parts go by in the script."""

    def __init__(self, deps: Dependencies, boxes: list[Box], wires: list[Wire]) -> None:
        self.deps, self.boxes, self.wires = deps, boxes, wires
        self.nodes: dict[Node, int] = {}
        self.values: dict[str, int] = {}
        for row in self._rows():
            self.values.setdefault(row.value.name, len(self.values))
            for cell in row.cells:
                self.nodes.setdefault(cell.node, len(self.nodes))
        self.ops = {op: i for i, op in enumerate(op for box in boxes for op in box.ops)}
        sizes = [(float(_WIDE), float(_HEAD + _LINE * len(b.rows) + _FOOT)) for b in boxes]
        self.place = placed(sizes, [(wire.start, wire.stop) for wire in wires])
        self.width = self.place.width + 2 * _MARGIN
        self.height = self.place.height + 2 * _MARGIN

    def _rows(self) -> Iterator[Row]:
        return (row for box in self.boxes for row in box.rows)

    def locks(self) -> list[tuple[str, list[int]]]:
        """Why dimensions of weights are locked, and which ones."""
        found: dict[str, list[int]] = {}
        for lock in self.deps.locks:
            reason = re.sub(r" at \S+$", "", lock.reason)
            nodes = ((member.weight.name, member.dim) for member in lock.members)
            found.setdefault(reason, []).extend(self.nodes[n] for n in nodes if n in self.nodes)
        return [(reason, nodes) for reason, nodes in found.items() if nodes]

    def layers(self) -> list[str]:
        """Names that chains can be asked for: modules with weights, and weights."""
        names = [row.value.name for row in self._rows() if row.value.is_weight]
        return list(dict.fromkeys(x for n in names for x in (n.rpartition(".")[0], n) if x))

    def data(self, why: list[str]) -> str:
        """What the script knows, as JSON that may stand in a page."""
        box = {op: i for i, each in enumerate(self.boxes) for op in each.ops}
        cells = {cell.node: cell for row in self._rows() for cell in row.cells}
        known = {
            "values": [
                [name, *self._aliases(name)] for name in self.values
            ],
            "nodes": [
                [self.values[n[0]], n[1], list(cells[n].groups), list(cells[n].reasons)]
                for n in self.nodes
            ],
            "weights": sorted(
                self.values[name] for name in self.values if name in self.deps.source.weights
            ),
            "ops": [
                [op.name, op.type, op.module, box[op], [
                    self.values[v.name] for v in op.outputs if v.name in self.values
                ]]
                for op in self.ops
            ],
            "couplings": [
                [self.ops[c.op], [self.nodes[n] for n in c.nodes if n in self.nodes]]
                for c in self.deps.couplings
                if c.op in self.ops and any(n in self.nodes and cells[n].groups for n in c.nodes)
            ],
            "groups": [[group.name, group.size] for group in self.deps.groups],
            "locks": self.locks(),
            "boxes": [each.title for each in self.boxes],
            "told": TOLD,
            "why": why,
        }  # fmt: skip
        return json.dumps(known, separators=(",", ":")).replace("<", "\\u003c")

    def _aliases(self, name: str) -> tuple[str, ...]:
        value = self.deps.source.weights.get(name)
        return value.aliases if value is not None else ()

    def svg(self) -> str:
        """Everything that is drawn: wires first, boxes over them."""
        wires = zip(self.wires, self.place.routes, strict=True)
        boxes = enumerate(zip(self.boxes, self.place.corners, strict=True))
        drawn = [*(self._wire(*each) for each in wires), *(self._box(i, *b) for i, b in boxes)]
        return "\n".join(drawn)

    def _wire(self, wire: Wire, route: list[Point]) -> str:
        points = [(x + _MARGIN, y + _MARGIN) for x, y in route]
        x, y = points[0]
        path = [f"M{x:.0f} {y:.0f}"]
        for i, (to_x, to_y) in enumerate(points[1:]):
            half = (y + to_y) / 2
            bend = f"C{x:.0f} {half:.0f} {to_x:.0f} {half:.0f} {to_x:.0f} {to_y:.0f}"
            path.append(f"V{to_y:.0f}" if i % 2 else bend)
            x, y = to_x, to_y
        held = _held(cell for row in self._rows_of(wire) for cell in row.cells)
        of, to = self.values[wire.value.name], self.ops[wire.op]
        return f'<path class="e{held}" data-v="{of}" data-o="{to}" d="{"".join(path)}"/>'

    def _rows_of(self, wire: Wire) -> Iterator[Row]:
        return (row for row in self.boxes[wire.start].rows if row.value is wire.value)

    def _box(self, number: int, box: Box, corner: Point) -> str:
        x, y = corner[0] + _MARGIN, corner[1] + _MARGIN
        high = _HEAD + _LINE * len(box.rows) + _FOOT
        kind = "" if box.ops else " input"
        out = [
            f'<g class="b{kind}" data-b="{number}" transform="translate({x:.0f} {y:.0f})">'
            f'<rect class="f" width="{_WIDE}" height="{high}" rx="4"/>'
            f'<text class="t" x="{_SIDE}" y="15">{_short(box.title, _WIDE - 2 * _SIDE)}</text>'
        ]
        for i, row in enumerate(box.rows):
            out.append(self._row(row, _HEAD + _LINE * i))
        return "".join([*out, "</g>"])

    def _row(self, row: Row, y: int) -> str:
        wide = min(_CELL, _CELLS // max(len(row.cells), 1))
        start = _WIDE - _SIDE - wide * len(row.cells)
        kind = "w" if row.op is None else "r"
        quiet = "" if row.op is None or row.is_output else " q"  # batch and sides of every result
        room, output = start - 2 * _SIDE, " (output)" if row.is_output else ""
        fits = len(row.label + output) <= int(room / _LETTER)
        told = _short((row.label if fits else row.brief) + output, room)
        out = [f'<text class="{kind}" x="{_SIDE}" y="{y + 13}">{told}</text>']
        for i, cell in enumerate(row.cells):
            x, number = start + wide * i, self.nodes[cell.node]
            out.append(
                f'<rect class="c{_held([cell])}{quiet}" data-n="{number}" x="{x}" y="{y + 1}" '
                f'width="{wide - 2}" height="{_LINE - 3}"/>'
                f'<text class="n" x="{x + wide // 2 - 1}" y="{y + 13}">{cell.size}</text>'
            )
        return "".join(out)


def _held(cells: Iterator[Cell] | list[Cell]) -> str:
    """The classes that give a cell or a wire its colours: of its first group, or of a lock."""
    found = list(cells)
    groups = [group for cell in found for group in cell.groups]
    if groups:
        return f" g{groups[0]}"
    return " l" if any(cell.reasons for cell in found) else ""


def _short(text: str, width: float) -> str:
    """Text that fits: of a long name the end, which tells most."""
    most = int(width / _LETTER)
    return escape(text if len(text) <= most else f"…{text[len(text) - most + 1 :]}")
