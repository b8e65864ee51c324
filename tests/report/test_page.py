"""The report as a page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune.core.errors import GraphPruneError
from graphprune.report.page import page

_VOID = {"meta", "link", "rect", "line", "polyline"}


class _Checked(HTMLParser):
    """Elements close in the order in which they opened; ids are told apart."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        held = dict(attrs)
        self.ids += [held["id"]] if "id" in held else []
        self.links += [held[key] for key in ("href", "src") if key in held]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report() -> Any:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    plan = graphprune.plan(net, 0.5, compensate=False, round_to=2)
    plan.apply()
    return plan.report


def test_a_page_is_whole_and_fetches_nothing(report: Any, tmp_path: Path) -> None:
    report.save(tmp_path / "report.html", command="graphprune report <net> --html report.html")
    text = (tmp_path / "report.html").read_text()
    checked = _Checked()
    checked.feed(text)
    assert checked.open == []
    assert len(set(checked.ids)) == len(checked.ids)
    assert all(link[1:] in checked.ids for link in checked.links if link.startswith("#"))
    assert all(link.startswith(("#", "data:")) for link in checked.links)
    assert "://" not in text and "url(" not in text and "<script" not in text
    assert text.index("outputs keep") < text.index("<table>")  # agreement stands first
    for part in ("32 → ", "locked", "removal equals masking", "&lt;net&gt;", "graphprune "):
        assert part in text
    assert len(re.findall("<polyline", text)) == 1


def test_the_call_is_shown_where_there_is_no_command(report: Any) -> None:
    assert report.call == ("graphprune.plan(model, 0.5, of='params', compensate=False, round_to=2)")
    assert "compensate=False, round_to=2)" in page(report)


def test_a_plan_that_was_not_applied_has_a_page() -> None:
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    text = page(graphprune.plan(net, 0.5, compensate=False).report)
    assert "not measured: the plan was not applied" in text


def test_other_kinds_of_files(report: Any, tmp_path: Path) -> None:
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text())["schema"] == 1
    report.save(tmp_path / "report.txt")
    assert (tmp_path / "report.txt").read_text() == str(report)
    with pytest.raises(GraphPruneError, match=r"is a \.html, \.json or \.txt file"):
        report.save(tmp_path / "report.pdf")
