"""Pictures of a sensitivity and of a sweep, as SVG.

Drawn here rather than by a plotting library: they take the page's colours (and have their own in a
notebook), scale to a phone, say in words what they show, and need no other package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

from graphprune.core.files import check_target, write_whole

_ALONE = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6e6e6}}</style>"
_WIDTH = 360.0  # units: on a phone one is about a pixel
_LEFT, _RIGHT, _BELOW, _ABOVE = 40.0, 12.0, 34.0, 12.0  # room for words around a picture
_ROW = 30.0  # a group's height: its name, and its dots below
_MOST = 40  # groups that are drawn, the most sensitive first
_TALL = 230.0
_TICKS = 5
_DOT = 4.0  # radius of a point
_LETTER, _LETTERS = 6.0, 12.0  # room for a letter, and for a line of them
# The page's colours, and others where there is no page: they are seen on light and dark.
_IS, _CUT = "var(--is,#2f7fd1)", "var(--cut,#d1593c)"
_SOFT, _FAINT = "var(--soft,currentColor)", "var(--line,#8a939d55)"


@dataclass(frozen=True)
class Plot:
    """A picture.

    Attributes:
        svg: The picture.
    """

    svg: str

    def save(self, path: str | Path) -> None:
        """Write it: `.svg`, whole or not at all.

        Raises:
            GraphPruneError: The file cannot be written, or ends otherwise.
        """
        write_whole(check_target(path, (".svg",)), self.file().encode())

    def file(self) -> str:
        """The picture with colours of its own, for a place without a page around it."""
        at = self.svg.index(">") + 1
        return f"{self.svg[:at]}{_ALONE}{self.svg[at:]}"

    def _repr_html_(self) -> str:
        return f'<div style="max-width:40rem">{self.svg}</div>'

    def __repr__(self) -> str:
        return f"Plot({len(self.svg)} bytes of SVG)"


@dataclass(frozen=True)
class Bar:
    """A group in the picture of a sensitivity: its name, what is predicted, what is measured."""

    name: str
    predicted: float | None
    measured: float | None


@dataclass(frozen=True)
class Dot:
    """A point of a curve: where it lies, what it is called, and whether none is better."""

    x: float
    y: float
    name: str
    best: bool


def bars(groups: Sequence[Bar], scale: float) -> Plot:
    """Losses of groups: a ring for what is predicted, a dot for what is measured.

    Args:
        groups: The groups, the most sensitive first.
        scale: What predictions are multiplied by to be comparable.
    """
    shown = groups[:_MOST]
    found = [
        x for bar in shown for x in (bar.measured, bar.predicted and scale * bar.predicted) if x
    ]
    top = max(found, default=1.0) or 1.0
    height = _ABOVE + _ROW * len(shown) + _BELOW
    wide = _WIDTH - 2 * _RIGHT

    def at(loss: float) -> float:
        return _RIGHT + wide * loss / top

    out = [_line(at(0), _ABOVE, at(0), height - _BELOW, _SOFT)]
    for number, bar in enumerate(shown):
        low = _ABOVE + _ROW * number + _ROW - _DOT - 2
        out.append(_words(_RIGHT, low - _DOT - 4, bar.name))
        out.append(_line(at(0), low, at(top), low, _FAINT))
        if bar.predicted is not None:
            out.append(_ring(at(min(scale * bar.predicted, top)), low))
        if bar.measured is not None:
            out.append(_dot(at(bar.measured), low, _IS))
    for tick in _ticks(0.0, top):
        out.append(_words(at(tick), height - _BELOW + 14, f"{tick:.3g}", "middle"))
    out.append(_words(_WIDTH / 2, height - 4, "dot: measured loss; ring: predicted", "middle"))
    said = "; ".join(
        f"{bar.name} {'-' if bar.measured is None else format(bar.measured, '.3g')}"
        for bar in shown[:_TICKS]
    )
    more = f"; and {len(groups) - _TICKS} more" if len(groups) > _TICKS else ""
    return _plot(out, height, f"Losses of groups, the largest first: {said}{more}")


def curves(
    lines: Sequence[Sequence[Dot]], names: Sequence[str], across: str, up: str
) -> Plot:  # fmt: skip
    """What a model is worth at its sizes: a line for each kind, a ring where another is better.

    Args:
        lines: The points of each kind.
        names: What each kind is called; nothing where there is one.
        across: What is told from left to right.
        up: What is told from below.
    """
    dots = [dot for line in lines for dot in line]
    low, high = _around([dot.y for dot in dots])
    right = max([dot.x for dot in dots], default=1.0) or 1.0

    def at(dot: Dot) -> tuple[float, float]:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * dot.x / right
        return x, _ABOVE + (_TALL - _ABOVE - _BELOW) * (high - dot.y) / (high - low)

    floor = _TALL - _BELOW
    out = [_line(_LEFT, floor, _WIDTH - _RIGHT, floor, _SOFT)]
    for tick in _ticks(low, high):
        y = at(Dot(0, tick, "", False))[1]
        out += [_line(_LEFT, y, _WIDTH - _RIGHT, y, _FAINT)]
        out += [_words(_LEFT - 4, y + 4, f"{tick:.3g}", "end")]
    for tick in _ticks(0.0, right):
        x = at(Dot(tick, low, "", False))[0]
        out.append(_words(x, floor + 14, f"{tick:.3g}", "middle"))
    for number, line in enumerate(lines):
        dashed = ' stroke-dasharray="4 3"' if number else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, line))
        out.append(
            f'<polyline points="{path}" fill="none" stroke-width="1.5"{dashed} '
            f'style="stroke:{_IS}"/>'
        )
        for dot in line:
            x, y = at(dot)
            mark = _dot(x, y, _IS) if dot.best else _ring(x, y)
            out.append(f"<g><title>{escape(dot.name)}</title>{mark}</g>")
    drawn = [[at(dot) for dot in line] for line in lines]
    for (x, y), name in _labels(drawn, names):
        out.append(_words(x, y, name, "end"))
    out.append(_words((_LEFT + _WIDTH) / 2, _TALL - 4, across, "middle"))
    out.append(_words(_LEFT - 36, _ABOVE - 2, up))
    said = "; ".join(dot.name for dot in dots if dot.best)
    return _plot(out, _TALL, f"{up} against {across}. None is better than: {said}")


Place = tuple[float, float]
_STEPS = 24  # places of a stroke between two points that are looked at


def _labels(lines: Sequence[Sequence[Place]], names: Sequence[str]) -> list[tuple[Place, str]]:
    """Where each line's name ends: near one of its points, the last rather than the first.

    Of the places above and below them, the one that lies over the fewest strokes and names.
    """
    strokes = [place for line in lines for place in _along(line)]
    out: list[tuple[Place, str]] = []
    for line, name in zip(lines, names, strict=True):
        if not line or not name:
            continue
        wide = _LETTER * len(name)
        tried = [
            (max(min(x, _WIDTH - _RIGHT), _LEFT + wide), y + aside)
            for x, y in sorted(line, reverse=True)
            for aside in (-_DOT - 4, _DOT + _LETTERS)
        ]

        def over(place: Place, wide: float = wide) -> int:
            x, y = place
            near = sum(x - wide < a < x + 2 and y - _LETTERS < b < y + 2 for a, b in strokes)
            for (other, height), told in out:
                apart = other < x - wide or x < other - _LETTER * len(told)
                near += 0 if apart or abs(y - height) >= _LETTERS else _STEPS
            low, top = _TALL - _BELOW, _LETTERS
            return near + (0 if top <= y <= low else _STEPS)

        out.append((min(tried, key=over), name))
    return out


def _along(line: Sequence[Place]) -> list[Place]:
    """Places close to each other on a line."""
    out = list(line)
    for (x, y), (right, high) in pairwise(line):
        for step in range(1, _STEPS):
            part = step / _STEPS
            out.append((x + part * (right - x), y + part * (high - y)))
    return out


def _around(found: Sequence[float]) -> tuple[float, float]:
    """Where a scale begins and ends."""
    low, high = min(found, default=0.0), max(found, default=1.0)
    room = (high - low) / 20 or 0.5
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers between two."""
    rough = (high - low) / _TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(n * unit for n in (1, 2, 5, 10) if n * unit >= rough)
    first = -(-low // step)
    return [n * step for n in range(int(first), int(high // step) + 1)]


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="stroke:{colour}"/>'
    )


def _dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_DOT}" style="fill:{colour}"/>'


def _ring(x: float, y: float) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_DOT + 1}" fill="none" stroke-width="1.5" '
        f'style="stroke:{_CUT}"/>'
    )


def _words(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11" '
        f'style="fill:var(--text,currentColor)">{escape(text)}</text>'
    )


def _plot(parts: Sequence[str], height: float, said: str) -> Plot:
    return Plot(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:.0f} {height:.0f}" '
        f'role="img" aria-label="{escape(said)}" font-family="system-ui, sans-serif" '
        f'style="width:100%;height:auto;display:block">{"".join(parts)}</svg>'
    )
