"""Pages in a browser: contrast and names by axe-core, a phone's width, the keyboard, the console.

Skipped where Chromium, playwright or axe is missing: `pip install "graphprune[dev]"`, and Chromium
of the system's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune

PLACES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for found in map(shutil.which, PLACES) if found), None)
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
KINDS = ("report", "sensitivity", "sweep")

playwright = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One page of each kind, of a model with names that are long."""
    folder = tmp_path_factory.mktemp("pages")
    torch.manual_seed(0)
    net = nn.Sequential()
    widths = (8, 32, 32, 32)
    for number, (a, b) in enumerate(pairwise(widths)):
        name = f"a_stage_with_a_rather_long_name_{number}"
        net.add_module(name, nn.Sequential(nn.Linear(a, b), nn.ReLU()))
    net.add_module("head", nn.Linear(32, 4))
    plan = graphprune.plan(net, 0.5, data=torch.randn(96, 8), effort="fast", compensate=True)
    plan.apply()
    assert plan.report is not None
    found = {
        "report": plan.report,
        "sensitivity": graphprune.sensitivity(net, 0.5, compensate=False),
        "sweep": graphprune.sweep(net, (0.2, 0.5), bits=(32, 8), compensate=False),
    }
    for name, each in found.items():
        each.save(folder / f"{name}.html", command=f"graphprune {name} net --ratio 0.5")
    return {name: folder / f"{name}.html" for name in found}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as made:
        opened = made.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_nothing(kind: str, scheme: str, pages: Any, browser: Any) -> None:
    page = browser.new_page(viewport=DESK, color_scheme=scheme)
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(pages[kind].as_uri())
    found = axe.Axe().run(page)
    page.close()
    assert found.violations_count == 0, found.generate_report()
    assert "color-contrast" in {rule["id"] for rule in found.response["passes"]}
    assert said == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_phone_does_not_scroll_sideways_and_the_keyboard_goes_everywhere(
    kind: str, pages: Any, browser: Any
) -> None:
    page = browser.new_page(viewport=PHONE)
    page.goto(pages[kind].as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    sections = page.evaluate("[...document.querySelectorAll('section')].map(x => '#' + x.id)")
    reached: list[str] = []
    for _ in range(len(sections) + 2):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.getAttribute('href') || ''"))
    assert reached[0] == "#main" and set(sections) <= set(reached)
    for section in sections:
        page.focus(f"nav a[href='{section}']")
        page.keyboard.press("Enter")
        assert page.evaluate("location.hash") == section
    hidden = page.evaluate(
        "[...document.querySelectorAll('*')].filter(x => x.scrollWidth > x.clientWidth + 1 &&"
        " getComputedStyle(x).overflowX === 'auto' && x.tabIndex < 0).length"
    )
    assert hidden == 0  # what scrolls by itself can be scrolled by keyboard
    page.close()
