"""What a sensitivity and a sweep found: tables, pictures, pages, data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.table import Table

from graphprune.core.files import check_target, write_whole
from graphprune.core.markup import heading, lines, table
from graphprune.report.page import explored_page
from graphprune.report.plots import Bar, Dot, Plot, bars, curves
from graphprune.report.report import as_text

SCHEMA = 2
"""The version of both results as data: it grows where a field is renamed or goes."""

FLOAT = 32
"""Bits of weights that are left as they are."""

_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
_LEAST = 3  # groups, fewer of which have no order to speak of


class _Explored:
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


def drawn(title: str, found: _Explored) -> Table:
    """A result as a table for terminals."""
    head, rows = found.columns()
    out = Table(title=title)
    for number, name in enumerate(head):
        out.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        out.add_row(*row)
    return out


@dataclass(frozen=True)
class Sensitive:
    """What it costs to shrink one coupled group, the others staying whole.

    Attributes:
        group: Its name.
        size: How many indices it has.
        removed: How many went.
        params: Share of the model's parameters that went with them.
        predicted: Share of what the group's readers compute that is lost, by the loss curve; None
            where there is none: another criterion, or channels that are summed over between two
            computed operands, as in attention.
        lost: Share of the outputs' variation that is lost, measured; None where nothing can be
            compared.
        metric: The metric of the smaller model; None without one.
    """

    group: str
    size: int
    removed: int
    params: float
    predicted: float | None
    lost: float | None
    metric: float | None


@dataclass(repr=False)
class Sensitivity(_Explored):
    """What it costs to shrink each coupled group of a model.

    Attributes:
        model: Its name.
        ratio: Fraction of each group that went.
        base: The metric of the model itself; None without one.
        rows: One for each group, in the order of the model.
    """

    model: str
    ratio: float
    base: float | None
    rows: list[Sensitive] = field(default_factory=list)

    def _pairs(self) -> list[tuple[float, float]]:
        """What is predicted and measured, where both are."""
        return [
            (row.predicted, row.lost)
            for row in self.rows
            if row.predicted is not None and row.lost is not None
        ]

    @property
    def correlation(self) -> float | None:
        """Spearman's rank correlation of what is predicted and what is measured, from -1 to 1.

        It says how far the loss curves, which cost nothing, may stand for the measurement; None
        where there are fewer than three groups, or nothing to compare.
        """
        pairs = self._pairs()
        if len(pairs) < _LEAST:
            return None
        ranks = [np.argsort(np.argsort(column)) for column in zip(*pairs, strict=True)]
        if any(np.ptp(x) == 0 for x in zip(*pairs, strict=True)):
            return None
        return float(np.corrcoef(ranks[0], ranks[1])[0, 1])

    @property
    def scale(self) -> float:
        """What predictions are multiplied by to be comparable: the median of measured by predicted.

        The curves speak of what layers compute, the measurement of the model's outputs.
        """
        found = [lost / told for told, lost in self._pairs() if told > 0 and lost > 0]
        return float(np.median(found)) if found else 1.0

    @property
    def error(self) -> float | None:
        """By which factor predictions miss, at the median, once all are multiplied by `scale`.

        None where there are fewer than three groups, or nothing to compare.
        """
        scale = self.scale
        off = [
            abs(math.log(lost / (scale * told)))
            for told, lost in self._pairs()
            if told > 0 and lost > 0
        ]
        return math.exp(float(np.median(off))) if len(off) >= _LEAST else None

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        found = {"correlation": self.correlation, "error": self.error, "scale": self.scale}
        return {"schema": SCHEMA, **asdict(self), **found}

    def _ordered(self) -> list[Sensitive]:
        """The groups, the most sensitive first."""
        return sorted(self.rows, key=lambda row: -(row.lost or row.predicted or 0.0))

    def plot(self) -> Plot:
        """The groups, the most sensitive first: dots for what is measured, rings for predictions.

        Predictions are multiplied by `scale`.
        """
        return bars([Bar(r.group, r.predicted, r.lost) for r in self._ordered()], self.scale)

    def columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The result as a table: names of columns, and rows, the most sensitive group first."""
        head = ("group", "removed", "params", "predicted loss", "measured loss")
        rows = [
            (row.group, f"{row.removed} of {row.size}", f"{row.params:.1%}", _share(row.predicted),
             _share(row.lost), *([_number(row.metric)] if self.base is not None else []))
            for row in self._ordered()
        ]  # fmt: skip
        return (*head, "metric") if self.base is not None else head, rows

    def notes(self) -> list[str]:
        """What the table does not say."""
        out = [] if self.base is None else [f"metric of the model itself: {self.base:.4g}"]
        if self.correlation is not None:
            out.append(f"rank correlation of predicted and measured loss: {self.correlation:.2f}")
        if self.error is not None:
            out.append(
                f"predicted losses times {self.scale:.2g} miss the measured ones by a factor of "
                f"{self.error:.1f} (median)"
            )
        return out

    def __repr__(self) -> str:
        return f"Sensitivity({self.model}: {len(self.rows)} groups, {self.ratio:.0%} of each)"

    def title(self) -> str:
        """The result in a line."""
        return f"{self.model}: {self.ratio:.0%} of each group alone"


@dataclass(frozen=True)
class Point:
    """One point of a sweep.

    Attributes:
        asked: The fraction of the cost to remove.
        achieved: What was reached; None where the budget cannot be met, `why` telling the reason.
        params: Parameters that stay.
        macs: Multiply-accumulates of one sample that stay.
        kept: Share of the outputs' variation that is kept.
        same: Share of equal answers, where outputs are scores of classes.
        metric: The metric of the smaller model.
        bits: Bits of each number in a matrix or kernel.
        bytes: Of all parameters.
        why: Why there is no such model; else empty.
    """

    asked: float
    achieved: float | None = None
    params: int = 0
    macs: int = 0
    kept: float | None = None
    same: float | None = None
    metric: float | None = None
    bits: int = FLOAT
    bytes: int = 0
    why: str = ""


@dataclass(repr=False)
class Sweep(_Explored):
    """What a model is worth at several sizes.

    Attributes:
        model: Its name.
        of: The cost that the fractions speak of.
        params: Parameters of the model itself.
        macs: Its multiply-accumulates for one sample.
        base: The metric of the model itself; None without one.
        points: One for each fraction, in the order asked for, and each number of bits, the most
            first.
    """

    model: str
    of: str
    params: int
    macs: int
    base: float | None
    points: list[Point] = field(default_factory=list)

    @property
    def pareto(self) -> list[Point]:
        """The points than which no other has fewer bytes and is better, the largest model first."""
        known = [p for p in self.points if p.achieved is not None and _worth(p) is not None]
        out: list[Point] = []
        for point in sorted(known, key=lambda p: (p.bytes, -cast(float, _worth(p)))):
            if not out or cast(float, _worth(point)) > cast(float, _worth(out[-1])):
                out.append(point)
        return out[::-1]

    def as_dict(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "schema": SCHEMA,
            **asdict(self),
            "pareto": [[p.asked, p.bits] for p in self.pareto],
        }

    def columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The result as a table: names of columns, and rows."""
        several = self._bits() != [FLOAT]
        head = ("removed", *(("bits", "bytes") if several else ()), "parameters", "MACs",
                "outputs keep", "same answer")  # fmt: skip
        best = self.pareto
        rows = []
        for point in self.points:
            kind = (str(point.bits), f"{point.bytes:,}") if several else ()
            if point.achieved is None:
                blank = ["-"] * (len(head) - 1 + (self.base is not None))
                rows.append((f"{point.asked:.0%}", *blank))
                continue
            metric = [_number(point.metric)] if self.base is not None else []
            star = "" if point in best else " (not better than a smaller one)"
            rows.append(
                (f"{point.achieved:.1%}{star}", *kind, f"{point.params:,}", f"{point.macs:,}",
                 _share(point.kept), _share(point.same), *metric)
            )  # fmt: skip
        return (*head, "metric") if self.base is not None else head, rows

    def _bits(self) -> list[int]:
        return sorted({point.bits for point in self.points}, reverse=True)

    def plot(self) -> Plot:
        """Worth against bytes, a line for each number of bits; dots where none is better."""
        best = self.pareto
        unit, name = next((u, n) for u, n in _UNITS if self.params * FLOAT / 8 >= u)
        lines = []
        for bits in self._bits():
            found = [(p, _worth(p)) for p in self.points if p.bits == bits]
            lines.append([
                Dot(p.bytes / unit, worth, self._called(p, worth), p in best)
                for p, worth in sorted(found, key=lambda pair: pair[0].bytes)
                if worth is not None
            ])  # fmt: skip
        names = [f"{bits} bits" if len(lines) > 1 else "" for bits in self._bits()]
        return curves(lines, names, name, self._up())

    def _up(self) -> str:
        return "outputs keep" if self.base is None else "metric"

    def _called(self, point: Point, worth: float) -> str:
        kind = f" at {point.bits} bits" if point.bits != FLOAT else ""
        return f"{point.asked:.0%} removed{kind}: {self._up()} {worth:.3g}"

    def notes(self) -> list[str]:
        """What the table does not say."""
        out = [] if self.base is None else [f"metric of the model itself: {self.base:.4g}"]
        return out + [f"{p.asked:.0%} cannot be had: {p.why}" for p in self.points if p.why]

    def __repr__(self) -> str:
        return f"Sweep({self.model}: {len(self.points)} sizes by {self.of})"

    def title(self) -> str:
        """The result in a line."""
        return f"{self.model}: {self.params:,} parameters, {self.macs:,} MACs; share of {self.of}"


def _worth(point: Point) -> float | None:
    return point.kept if point.metric is None else point.metric


def _share(found: float | None) -> str:
    return "-" if found is None else f"{found:.1%}"


def _number(found: float | None) -> str:
    return "-" if found is None else f"{found:.4g}"
