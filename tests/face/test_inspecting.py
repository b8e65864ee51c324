"""The views of an analysis: text, why, JSON, GraphML, Graphviz; the page has a file of its own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import inspecting
from graphprune.core.errors import AxisError, GraphPruneError
from graphprune.core.groups import Dependencies
from graphprune.report.rows import lock_reasons
from tests.own_operation import unruled


class Net(nn.Module):
    """A skip connection around two convolutions, and an operation without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, padding=1)
        self.outer = nn.Conv2d(12, 8, 3, padding=1)
        self.apart = nn.Linear(6, 5)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        stem = self.stem(x)
        found = stem + self.outer(torch.relu(self.inner(stem)))
        return self.head(found.mean((2, 3))), unruled(self.apart(y))


@pytest.fixture(scope="module")
def deps() -> Dependencies:
    return analyzed()


def analyzed() -> Dependencies:
    return graphprune.analyze(Net(), (torch.randn(2, 3, 8, 8), torch.randn(7, 6)))


TEXT = """\
group 0: 8 indices
    stem.weight[0], stem.bias[0], inner.weight[1], outer.weight[0], outer.bias[0],
    head.weight[1]
group 1: 12 indices
    inner.weight[0], inner.bias[0], outer.weight[1]
"""


def test_the_text_starts_with_the_groups(deps: Dependencies) -> None:
    text = inspecting.describe(deps)
    assert text.startswith(TEXT)
    assert "model input x:\n    stem.weight[1]\n" in text
    assert "    head.weight[0], head.bias[0]\n" in text
    assert "consumed by a window: 6 kernel dimensions" in text
    assert "no rule for graphprune_tests.unruled: unruled" in text
    assert re.search(r"^2 groups; \d+\.\d% of the parameters", text, re.MULTILINE)


def test_the_text_is_the_same_for_every_run(deps: Dependencies) -> None:
    text = inspecting.describe(deps)
    assert text == inspecting.describe(analyzed())
    assert "\x1b" not in text
    assert not re.search(r"[ \t]$", text, re.MULTILINE)


def test_long_groups_are_wrapped_and_whole() -> None:
    deep = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(3)])

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.deep, self.head = deep, nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.deep[0](x)
            out: Tensor = self.head(self.deep[2](self.deep[1](x) + x) + x)
            return out

    deps = graphprune.analyze(Sum(), torch.randn(4, 8))
    text = inspecting.describe(deps)
    assert max(map(len, text.splitlines())) <= 100
    long = max(deps.groups, key=lambda group: len(group.members))
    listed = re.findall(r"[\w.]+\[\d\]", text.split(f"group {long.id}:")[1])
    assert listed[: len(long.members)] == [str(member) for member in long.members]


@pytest.mark.parametrize(
    ("layer", "groups"),
    [("inner", [0, 1]), ("inner.weight", [0, 1]), ("stem.*", [0]), ("head", [0]), ("apart", [])],
)
def test_a_layer_narrows_the_text(deps: Dependencies, layer: str, groups: list[int]) -> None:
    text = inspecting.describe(deps, layer)
    assert re.findall(r"^group (\d+):", text, re.MULTILINE) == [str(group) for group in groups]
    assert ("    apart.weight" in text) == (layer == "apart")


def test_an_unknown_layer_brings_close_names(deps: Dependencies) -> None:
    with pytest.raises(AxisError, match=r"no layer is called 'iner'; did you mean .*inner"):
        inspecting.describe(deps, "iner")


def test_why_shows_the_operations_between(deps: Dependencies) -> None:
    first, _, held, *chain = inspecting.why_text(deps, "stem", "outer").splitlines()
    assert first == "stem and outer lose the same indices, for one reason:"
    assert held == "both hold the 8 indices of stem.weight[0]:"
    assert chain == WHY.splitlines()


WHY = """\
stem.weight[0]
  aten.conv2d (conv2d) uses it to make
conv2d[1]
  aten.add (add) takes it together with
conv2d_2[1]
  aten.conv2d (conv2d_2) makes it from
outer.weight[0]
"""


def test_why_says_that_nothing_couples(deps: Dependencies) -> None:
    text = inspecting.why_text(deps, "stem", "apart")
    assert text.startswith("nothing couples stem and apart")
    assert "  stem.weight[0], stem.bias[0]: group stem.weight[0]\n" in text
    assert "  apart.weight[1]: locked, model input y\n" in text
    with pytest.raises(AxisError, match="nowhere"):
        inspecting.why_text(deps, "stem", "nowhere")


def test_json_holds_everything(deps: Dependencies) -> None:
    data = json.loads(json.dumps(deps.as_dict()))
    assert [group["size"] for group in data["groups"]] == [8, 12]
    assert data["groups"][1]["members"] == ["inner.weight[0]", "inner.bias[0]", "outer.weight[1]"]
    assert len(data["locks"]) == len(deps.locks)
    assert list(data["unknown"]) == ["graphprune_tests.unruled"]
    assert data["reachable"] == deps.reachable()
    names = {node["name"] for node in data["nodes"]}
    assert len(names) == deps.graph.number_of_nodes()
    assert len(data["edges"]) == deps.graph.number_of_edges()
    assert all({edge["a"], edge["b"]} <= names for edge in data["edges"])


def test_graphml_is_read_back(deps: Dependencies) -> None:
    graph = nx.read_graphml(BytesIO(deps.as_graphml().encode()))
    assert graph.number_of_nodes() == deps.graph.number_of_nodes()
    assert graph.number_of_edges() == deps.graph.number_of_edges()
    assert graph.nodes["stem.weight[0]"] == {
        "label": "stem.weight[0]", "size": 8, "kind": "parameter", "groups": "0", "group": 0,
        "locked": False, "reason": "",
    }  # fmt: skip
    locked = graph.nodes["stem.weight[1]"]
    assert (locked["group"], locked["locked"], locked["reason"]) == (-1, True, "model input x")
    assert "aten.conv2d" in {data["type"] for *_, data in graph.edges(data=True)}
    ids = re.findall(r'<edge source="[^"]+" target="[^"]+" id="(\w+)"', deps.as_graphml())
    assert len(set(ids)) == graph.number_of_edges(), "Gephi drops edges that share an id"


def test_dot_draws_groups_and_locks(deps: Dependencies) -> None:
    text = deps.as_dot()
    assert text.startswith("graph ")
    assert text.count("{") == text.count("}") == 1
    edges = re.findall(r'^  "(.+)" -- "(.+)" \[label="(.+)"\];$', text, re.MULTILINE)
    nodes = set(re.findall(r'^  "([^"]+)" \[label=', text, re.MULTILINE))
    assert {"stem.weight[0]", "outer.weight[1]", "conv2d[1]"} <= nodes
    assert (
        '"stem.weight[1]" [label="stem.weight[1]\\n3\\nlocked: model input x", style=dashed' in text
    )
    assert "conv2d[0]" not in nodes, "the batch of a result"
    assert edges
    assert {end for a, b, _ in edges for end in (a, b)} <= nodes
    assert "aten.conv2d" in {label for *_, label in edges}


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_reads_it(deps: Dependencies) -> None:
    done = subprocess.run(["dot", "-Tplain"], input=deps.as_dot().encode(), capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""
    assert b"outer.weight[1]" in done.stdout


def test_a_layer_narrows_the_files(deps: Dependencies, tmp_path: Path) -> None:
    deps.save(tmp_path / "one.dot", "inner.weight")
    assert "head.weight" in (tmp_path / "one.dot").read_text(), "it shares a group with inner"
    deps.save(tmp_path / "one.graphml", "apart")
    assert nx.read_graphml(tmp_path / "one.graphml").number_of_nodes() == 0
    deps.save(tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text()) == deps.as_dict()
    with pytest.raises(GraphPruneError, match=r"is a .*\.graphml or \.json file"):
        deps.save(tmp_path / "all.svg")


class _ChannelAttention(nn.Module):
    """ECA (Wang et al. 2020): a window runs along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 8, 3), nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        gate = self.gate(y.mean((2, 3))[:, None])[:, 0].sigmoid()
        return self.head(y * gate[..., None, None])


def test_a_window_along_channels_is_told_and_kernels_are_not() -> None:
    reasons = lock_reasons(graphprune.analyze(_ChannelAttention(), torch.randn(2, 3, 8, 8)))
    assert reasons.pop("consumed by a window") == 1
    assert all(reason.startswith("model ") for reason in reasons)
