"""The network as a page: what it holds, and in a browser, where there is one, what it does."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.core.errors import AxisError
from graphprune.core.groups import Dependencies
from graphprune.core.views.boxes import boxes_of
from graphprune.core.views.layout import placed

_VOID = {"meta", "link", "input", "rect", "path"}


class Net(nn.Module):
    """A skip connection past a convolution, its norm and activation; names that look like code."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.rest = nn.ModuleDict({"</script><b>": nn.Conv2d(8, 6, 1)})
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x.sin() * x.cos() + self.norm(self.inner(x)).relu()
        out: Tensor = self.head(self.rest["</script><b>"](x).mean((2, 3)))
        return out


@pytest.fixture(scope="module")
def deps() -> Dependencies:
    return graphprune.analyze(Net(), torch.randn(2, 3, 8, 8))


class _Checked(HTMLParser):
    """Elements close in the order in which they opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.named: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        held = dict(attrs)
        for key in ("id", "for", "list", "href", "src"):
            self.named.setdefault(key, []).extend([held[key]] if key in held else [])
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(deps: Dependencies) -> None:
    text = deps.as_html()
    checked = _Checked()
    checked.feed(text)
    assert checked.open == []
    ids = checked.named["id"]
    assert len(set(ids)) == len(ids)
    assert {*checked.named["for"], *checked.named["list"]} <= set(ids)
    assert checked.named["href"] == ["data:,"] and checked.named["src"] == []
    assert "://" not in text and "<b>" not in text
    assert "<h1>Coupled groups of Net</h1>" in text
    assert "<h1>Coupled groups of inner in Net</h1>" in deps.as_html("inner")
    assert text.count("</script>") == 2
    known = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert known["groups"] == [[group.name, group.size] for group in deps.groups]
    held = {known["values"][value][0] for value, *_ in known["nodes"]}
    assert set(deps.source.weights) - {"norm.num_batches_tracked"} <= held
    assert ["model input x", [next(
        i for i, node in enumerate(known["nodes"])
        if known["values"][node[0]][0] == "stem.weight" and node[1] == 1
    )]] in known["locks"]  # fmt: skip


def test_a_layer_narrows_the_page(deps: Dependencies) -> None:
    text = deps.as_html("head")
    shown = re.findall(r">(\d+): ([^<]+) \(\d+\)</option>", text)
    assert shown == [(str(group.id), escape(group.name)) for group in deps.groups[1:]]
    assert "norm.weight" not in text
    with pytest.raises(AxisError, match="'nowhere'"):
        deps.as_html("nowhere")
    with pytest.raises(AxisError, match="'nowhere'"):
        deps.as_html(why=("stem", "nowhere"))


def test_norms_and_activations_share_a_box(deps: Dependencies) -> None:
    boxes, wires = boxes_of(deps, {group.id for group in deps.groups})
    kinds = [[op.type.rpartition(".")[2] for op in box.ops] for box in boxes]
    assert ["conv2d", "batch_norm", "relu"] in kinds
    assert ["conv2d"] in kinds, "three operations read what the stem makes"
    assert all(wire.start < wire.stop for wire in wires)
    assert sum(map(len, kinds)) == len(deps.source.ops)


def test_boxes_stand_apart_and_wires_run_down() -> None:
    edges = [(0, 1), (1, 2), (0, 3), (3, 4), (1, 4), (2, 5), (4, 5), (0, 5), (6, 5)]
    sizes = [(100.0, 20.0 + 10 * i) for i in range(7)]
    found = placed(sizes, edges)
    spans = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(found.corners, sizes, strict=True)]
    for i, a in enumerate(spans):
        assert a[0] >= 0 and a[2] <= found.width + 1e-6 and a[3] <= found.height
        for b in spans[:i]:
            assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]
    for (a, b), route in zip(edges, found.routes, strict=True):
        heights = [y for _, y in route]
        assert heights == sorted(heights)
        assert heights[0] == spans[a][3] and heights[-1] == spans[b][1]
        for (x, top), (to_x, end) in zip(route[1:-1:2], route[2:-1:2], strict=True):
            assert x == to_x, "it passes the boxes of a layer straight"
            across = [box for box in spans if box[1] < end and top < box[3]]
            assert not any(box[0] < x < box[2] for box in across)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    tools = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed")
    with tools.sync_playwright() as play:
        found = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("width", [360, 1100])
def test_in_a_browser(deps: Dependencies, browser: Any, tmp_path: Path, width: int) -> None:
    deps.save(tmp_path / "graph.html", why=("stem", "inner.weight[0]"))
    page = browser.new_page(viewport={"width": width, "height": 740})
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "graph.html").as_uri())
    told = page.locator("#told")
    lines = re.sub(r"[\s\d.]+", " ", "\n".join(deps.why("stem", "inner.weight[0]")))
    shown = re.sub(r"[\s\d.]+", " ", told.inner_text())
    assert "2 independent reasons" in told.inner_text()
    for word in re.findall(r"\w+\[\d\]|\(\w+\)", lines):
        assert word in shown, "the script finds the chains that the library finds"
    assert page.locator(".c.on").count() > 4
    page.keyboard.press("Escape")
    assert page.locator(".on").count() == 0
    page.fill("#find", "norm")
    page.keyboard.press("Enter")
    assert page.locator(".b.hit").count() == 1
    assert "norm.weight[0]" in told.inner_text()
    page.select_option("#lock", label="model input x (1)")
    assert told.inner_text().split() == ["Locked,", "model", "input", "x:", "stem.weight[1]"]
    page.focus("#view")
    before = page.locator("#net").bounding_box()["width"]
    page.keyboard.press("+")
    assert page.locator("#net").bounding_box()["width"] > before
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert wrong == []
    page.close()


def test_boxes_of_a_file_are_named_after_their_weights(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    torch.onnx.export(net, (torch.randn(2, 8),), tmp_path / "net.onnx", dynamo=True, verbose=False)
    deps = graphprune.analyze(tmp_path / "net.onnx")
    boxes, _ = boxes_of(deps, {group.id for group in deps.groups})
    assert [box.title for box in boxes if box.ops] == ["0", "2"]
    assert {row.label for box in boxes for row in box.rows if row.op is None} >= {"weight", "bias"}
