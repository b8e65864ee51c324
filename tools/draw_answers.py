#!/usr/bin/env python
"""Draws the pictures of docs/questions.md: what graphprune answers, as it prints or draws it.

    python tools/draw_answers.py              # into docs/assets/questions/
    python tools/draw_answers.py --page       # the report's page too, which takes Chromium

A small network is trained on scikit-learn's digits; all else is what any model would give.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import graphprune
from graphprune import demo, inspecting
from graphprune.core.files import write_whole

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "assets" / "questions"
EPOCHS = 8
_WIDE, _HIGH, _EDGE = 7.25, 17, 12  # units of a character, of a line, around all
_TYPED, _SAID = "#8ec5ff", "#e6e9ed"  # colours of what was typed, and of what it gave
_MOST = 104  # characters of a line; longer ones are folded
_PAGE = 420, 900  # width and height of the page's picture


def terminal(command: str, lines: Sequence[str]) -> str:
    """What was typed and what it gave, as SVG."""
    folded = [line[i : i + _MOST] for line in lines for i in range(0, max(len(line), 1), _MOST)]
    shown = [command, *folded]
    wide = _EDGE * 2 + _WIDE * max(map(len, shown))
    high = _EDGE * 2 + _HIGH * len(shown)
    rows = "".join(
        f'<text x="{_EDGE}" y="{_EDGE + _HIGH * i + 12}" fill="{_SAID if i else _TYPED}" '
        f'xml:space="preserve">{escape(line)}</text>'
        for i, line in enumerate(shown)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {high}" role="img" '
        f'aria-label="{escape(command)}" width="{wide:.0f}" style="max-width:100%">'
        f'<rect width="100%" height="100%" rx="6" fill="#161b22"/>'
        f'<g font-family="ui-monospace,Menlo,Consolas,monospace" font-size="12">'
        f"{rows}</g></svg>"
    )


def answers(folder: Path, page: bool) -> None:
    """Draw all of them into a folder."""
    torch.manual_seed(0)
    (images, labels), test = demo.digits()
    model = demo.DigitsNet()
    demo.train(model, (images, labels), EPOCHS, 3e-3, "training")
    plan = graphprune.plan(model, 0.5, data=images, effort="fast")
    small = plan.apply()
    assert plan.report is not None
    said = str(plan.report).splitlines()
    deps = graphprune.analyze(model, images[:2])
    first = next(i for i, line in enumerate(said) if "coupled groups" in line)
    after = [line for line in said[first:] if line[:1] not in "┏┡│┃├└┗" or not line]
    table = said[first : first + len(said[first:]) - len(after) + 1]
    steps = sorted(plan.report.seconds.items(), key=lambda item: -item[1])

    def draw(name: str, command: str, lines: Sequence[str]) -> None:
        write_whole(folder / f"{name}.svg", terminal(command, lines).encode())

    draw("went", ">>> print(plan.report)", table)
    draw("cost", ">>> print(plan.report)", said[: first - 1])
    proof = next(i for i, line in enumerate(said) if line.startswith("surgery verified"))
    draw("right", ">>> print(plan.report)", said[proof : proof + 2])
    draw(
        "locked", "$ graphprune inspect graphprune.demo:DigitsNet --layer head",
        inspecting.describe(deps, "head").splitlines(),
    )  # fmt: skip
    why = inspecting.why_text(deps, "blocks.1.conv2", "blocks.2.conv2").splitlines()
    draw("coupled", '>>> deps.why("blocks.1.conv2", "blocks.2.conv2")', why)
    draw("long", ">>> plan.report.seconds", [f"{name:12} {took:6.2f} s" for name, took in steps])
    plan.save(folder / "plan.json")
    again: Any = graphprune.load_plan(folder / "plan.json").apply(model)
    (folder / "plan.json").unlink()
    same = [tuple(x.shape) for x in again.parameters()] == [
        tuple(x.shape) for x in small.parameters()
    ]
    draw(
        "load", '>>> small = graphprune.load_plan("plan.json").apply(model)',
        [repr(graphprune.report_of(again)), f"the same widths: {same}"],
    )  # fmt: skip
    draw("repeat", ">>> plan.report.call", [plan.report.call])
    options: dict[str, Any] = {"data": images, "metric": lambda net: demo.accuracy(net, test)}
    sizes = graphprune.sweep(model, (0.2, 0.4, 0.6, 0.8), bits=(32, 8, 4), effort="fast", **options)
    sizes.save(folder / "far.svg")
    graphprune.sensitivity(model, 0.5, **options).save(folder / "keep.svg")
    if page:
        _photograph(plan.report, folder / "page.png")


def _photograph(report: Any, target: Path) -> None:
    """The report's page in Chromium, as a phone shows it."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as place, sync_playwright() as tools:
        report.save(Path(place) / "report.html")
        browser = tools.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        width, height = _PAGE
        shown = browser.new_page(viewport={"width": width, "height": height})
        shown.goto((Path(place) / "report.html").as_uri())
        shown.screenshot(path=target)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--page", action="store_true", help="the report's page too")
    parser.add_argument("-o", "--out", type=Path, default=FOLDER, help="where they go")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    answers(asked.out, asked.page)


if __name__ == "__main__":
    main()
