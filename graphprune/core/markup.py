"""A few lines of HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_ROWS = 60  # of a table in a notebook; more are counted
_RIGHT = ' style="text-align:right"'


def heading(text: str) -> str:
    """A line in bold."""
    return f"<p><strong>{escape(text)}</strong></p>"


def lines(found: Iterable[str]) -> str:
    """A paragraph for each line."""
    return "".join(f"<p>{escape(line)}</p>" for line in found)


def folded(title: str, found: Sequence[str]) -> str:
    """A paragraph for each line, which a click on the title shows; nothing where there is none."""
    if not found:
        return ""
    return f"<details><summary>{escape(title)}</summary>{lines(found)}</details>"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table: the first column text, the others numbers.

    Args:
        head: Names of the columns.
        rows: Their cells; of very many the first are shown, and how many more there are.
    """
    out = ["<table><thead><tr>", *(f'<th scope="col">{escape(name)}</th>' for name in head)]
    out.append("</tr></thead><tbody>")
    for row in rows[:_ROWS]:
        cells = (f"<td{_RIGHT if i else ''}>{escape(str(x))}</td>" for i, x in enumerate(row))
        out.append(f"<tr>{''.join(cells)}</tr>")
    out.append("</tbody></table>")
    if len(rows) > _ROWS:
        out.append(f"<p>and {len(rows) - _ROWS} more</p>")
    return "".join(out)
