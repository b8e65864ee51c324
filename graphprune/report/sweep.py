"""What a model is worth at several sizes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, cast

from graphprune.report.explored import SCHEMA, Explored
from graphprune.report.plots import Dot, Plot, curves
from graphprune.report.text import digits, percent

FLOAT = 32
"""Bits of weights that are left as they are."""

WIDTH, WIDTH_AND_RANK, RANK = "width", "width+rank", "rank"
WAYS = (WIDTH, WIDTH_AND_RANK, RANK)
"""How a model becomes smaller: channels go, layers become two in a row, or both."""

_SHORT = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))


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
        by: How the model became smaller: one of `WAYS`.
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
    by: str = WIDTH


@dataclass(repr=False)
class Sweep(Explored):
    """What a model is worth at several sizes.

    Attributes:
        model: Its name.
        of: The cost that the fractions speak of.
        params: Parameters of the model itself.
        macs: Its multiply-accumulates for one sample.
        base: The metric of the model itself; None without one.
        points: One for each fraction, in the order asked for, each way, and each number of bits,
            the most first.
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
            "pareto": [[p.asked, p.by, p.bits] for p in self.pareto],
        }

    def columns(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The result as a table: names of columns, and rows."""
        several, ways = self._bits() != [FLOAT], self._ways() != [WIDTH]
        head = ("removed", *(("by",) if ways else ()), *(("bits",) if several else ()),
                *(("bytes",) if several or ways else ()), "parameters", "MACs", "outputs keep",
                "same answer")  # fmt: skip
        best = self.pareto
        rows = []
        for point in self.points:
            kind = (*((point.by,) if ways else ()), *((str(point.bits),) if several else ()))
            if point.achieved is None:
                blank = ["-"] * (len(head) - 1 - len(kind) + (self.base is not None))
                rows.append((f"{point.asked:.0%}", *kind, *blank))
                continue
            size = _brief if kind else "{:,}".format
            kind = (*kind, *((f"{_brief(point.bytes)}B",) if kind else ()))
            metric = [digits(point.metric)] if self.base is not None else []
            star = "*" if point in best else ""
            rows.append(
                (f"{point.achieved:.1%}{star}", *kind, size(point.params), size(point.macs),
                 percent(point.kept), percent(point.same), *metric)
            )  # fmt: skip
        return (*head, "metric") if self.base is not None else head, rows

    def _bits(self) -> list[int]:
        return sorted({point.bits for point in self.points}, reverse=True)

    def _ways(self) -> list[str]:
        return [way for way in WAYS if any(point.by == way for point in self.points)]

    def plot(self) -> Plot:
        """Worth against bytes, a line for each way and precision; dots where none is better."""
        best = self.pareto
        unit, name = next((u, n) for u, n in _UNITS if self.params * FLOAT / 8 >= u)
        lines, kinds = [], [(way, bits) for way in self._ways() for bits in self._bits()]
        for kind in kinds:
            found = [(p, _worth(p)) for p in self.points if (p.by, p.bits) == kind]
            lines.append([
                Dot(p.bytes / unit, worth, self._called(p, worth), p in best)
                for p, worth in sorted(found, key=lambda pair: pair[0].bytes)
                if worth is not None
            ])  # fmt: skip
        names = [self._kind(way, bits) for way, bits in kinds]
        return curves(lines, names, name, self._up())

    def _up(self) -> str:
        return "outputs keep" if self.base is None else "metric"

    def _kind(self, way: str, bits: int) -> str:
        """What a line is called: as far as there are others."""
        told = [way] if len(self._ways()) > 1 else []
        return ", ".join([*told, *([f"{bits} bits"] if len(self._bits()) > 1 else [])])

    def _called(self, point: Point, worth: float) -> str:
        kind = f" by {point.by}" if point.by != WIDTH else ""
        kind += f" at {point.bits} bits" if point.bits != FLOAT else ""
        return f"{point.asked:.0%} removed{kind}: {self._up()} {worth:.3g}"

    def notes(self) -> list[str]:
        """What the table does not say."""
        out = ["* of fewer bytes, none is better"] if self.pareto else []
        if self.base is not None:
            out.append(f"metric of the model itself: {self.base:.4g}")
        return out + list(dict.fromkeys(self._missing(p) for p in self.points if p.why))

    def _missing(self, point: Point) -> str:
        by = f" by {point.by}" if self._ways() != [WIDTH] else ""
        return f"{point.asked:.0%}{by} cannot be had: {point.why}"

    def __repr__(self) -> str:
        return f"Sweep({self.model}: {len(self.points)} sizes by {self.of})"

    def title(self) -> str:
        """The result in a line."""
        return f"{self.model}: {self.params:,} parameters, {self.macs:,} MACs; share of {self.of}"


def _brief(number: int) -> str:
    """A number in few letters, where several columns share a line."""
    unit, name = next(((u, n) for u, n in _SHORT if number >= u), (1.0, ""))
    return f"{number / unit:.3g}{name}"


def _worth(point: Point) -> float | None:
    return point.kept if point.metric is None else point.metric
