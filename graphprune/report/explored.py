"""What a sensitivity and a sweep found: tables, pictures, pages, data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.table import Table

from graphprune.core.files import check_target, write_whole
from graphprune.core.markup import heading, lines, table
from graphprune.report.page import explored_page
from graphprune.report.plots import Plot
from graphprune.report.text import as_text

SCHEMA = 3
"""The version of both results as data: it grows where a field is renamed or goes."""


class Explored:
    """What both results have in common."""

    def columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The result as a table: names of columns, and rows."""
        raise NotImplementedError

    def notes(self) -> list[str]:
        """What the table does not say."""
        raise NotImplementedError

    def plot(self) -> Plot:
        """The result as a picture; it shows in a notebook, and has `save("plot.svg")`."""
        raise NotImplementedError

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        raise NotImplementedError

    def save(self, path: str | Path, command: str = "") -> None:
        """Write the result, whole or not at all: `.html`, `.json`, `.svg` or `.txt`.

        Args:
            path: Where to write. HTML is one file that fetches nothing.
            command: The command line that repeats it, for the page.

        Raises:
            GraphPruneError: The file cannot be written, or ends otherwise.
        """
        target = check_target(path, (".html", ".json", ".svg", ".txt"))
        kinds = {
            ".html": lambda: explored_page(
                self.title(), self.plot().svg, *self.columns(), self.notes(), command
            ),
            ".json": lambda: json.dumps(self.as_dict(), indent=1) + "\n",
            ".svg": lambda: self.plot().file(),
            ".txt": lambda: str(self),
        }
        write_whole(target, kinds[target.suffix]().encode())

    def title(self) -> str:
        """The result in a line."""
        raise NotImplementedError

    def __str__(self) -> str:
        text = as_text(drawn(self.title(), self))
        return text + "".join(f"{line}\n" for line in self.notes())

    def _repr_html_(self) -> str:
        head, rows = self.columns()
        picture = self.plot()._repr_html_()
        return heading(repr(self)) + picture + table(head, rows) + lines(self.notes())


def drawn(title: str, found: Explored) -> Table:
    """A result as a table for terminals."""
    head, rows = found.columns()
    out = Table(title=title)
    for number, name in enumerate(head):
        out.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        out.add_row(*row)
    return out
