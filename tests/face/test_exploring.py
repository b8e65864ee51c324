"""How far a model can shrink: group by group, and as a whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import cli, demo
from graphprune.core.errors import GraphPruneError, OptionError
from graphprune.passes.score import Score
from graphprune.report import explored

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


def _net() -> nn.Module:
    """Two hidden layers: half of the first is dead, all of the second counts."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        net[2].weight[:, 16:] = 0
    return net


def _width(model: Any) -> float:
    return float(model[0].out_features)


QUICK: dict[str, Any] = {"compensate": False, "example_inputs": X}


def test_each_group_is_cut_alone() -> None:
    found = graphprune.sensitivity(_net(), 0.5, metric=_width, **QUICK)
    first, second = found.rows
    assert (first.group, first.removed, first.size) == ("0.weight[0]", 16, 32)
    assert first.lost is not None and first.lost < 1e-6  # the dead half went
    assert second.lost is not None and second.lost > 0.1
    assert (first.metric, second.metric, found.base) == (16.0, 32.0, 32.0)
    assert first.predicted is None  # l2 is no loss
    assert str(found).index("2.weight[0]") < str(found).index("0.weight[0]")
    assert "<table>" in found._repr_html_() and "\n" not in repr(found)


def test_the_loss_curves_predict_what_is_measured() -> None:
    torch.manual_seed(1)
    layers = [part for _ in range(4) for part in (nn.Linear(16, 16), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(16, 4))
    with torch.no_grad():  # the further back, the more of a layer repeats itself
        for number in (2, 4, 6):
            net[number].weight[:, -2 * number :] *= 0.01
    found = graphprune.sensitivity(net, 0.5, data=torch.randn(128, 16), compensate=True)
    assert all(row.predicted is not None for row in found.rows)
    assert found.correlation is not None and found.correlation > 0.5
    assert json.loads(json.dumps(found.as_dict()))["schema"] == explored.SCHEMA


def test_a_sweep_captures_once_and_goes_on_from_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "sweep.json"
    calls: list[float] = []

    def metric(model: Any) -> float:
        calls.append(_width(model))
        return calls[-1]

    found = graphprune.sweep(_net(), (0.2, 0.5), metric=metric, state=state, **QUICK)
    assert [round(point.achieved or 0, 1) for point in found.points] == [0.2, 0.5]
    assert found.points[0].params > found.points[1].params
    assert found.base == 32.0 and len(calls) == 3
    assert [point.asked for point in found.pareto] == [0.2, 0.5]
    again = graphprune.sweep(_net(), (0.2, 0.5, 0.7), metric=metric, state=state, **QUICK)
    assert again.points[:2] == found.points and len(calls) == 5  # the model itself, and one point
    with pytest.raises(GraphPruneError, match="belongs to another sweep"):
        graphprune.sweep(_net(), (0.2,), "macs", state=state, **QUICK)
    state.write_text("nothing")
    with pytest.raises(GraphPruneError, match="holds no state of a sweep"):
        graphprune.sweep(_net(), (0.2,), state=state, **QUICK)
    assert "parameters" in str(found) and "<table>" in found._repr_html_()


def test_what_cannot_be_had_is_told() -> None:
    found = graphprune.sweep(_net(), (0.3, 0.99), keep=["4"], **QUICK)
    assert found.points[1].achieved is None and found.points[1].why
    assert "99% cannot be had" in str(found)


def test_points_are_compared_on_data_that_were_held_out() -> None:
    x = torch.randn(96, 8)
    point = graphprune.sweep(_net(), (0.5,), compensate=False, data=x, importance="l2").points[0]
    plan = graphprune.plan(_net(), 0.5, compensate=False, data=x, importance="l2")
    plan.apply()
    assert plan.report.agreement.real
    assert point.kept == pytest.approx(plan.report.agreement.kept, abs=1e-9)


def test_a_point_is_the_plan_of_its_ratio() -> None:
    point = graphprune.sweep(_net(), (0.4,), **QUICK).points[0]
    plan = graphprune.plan(_net(), 0.4, **QUICK)
    plan.apply()
    assert point.params == plan.report.params[1]
    assert point.kept == pytest.approx(plan.report.agreement.kept, abs=1e-9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: graphprune.sweep(_net(), ()), "fractions to remove"),
        (lambda: graphprune.sweep(_net(), (1.5,)), "fractions to remove"),
        (lambda: graphprune.sweep(_net(), of="latency"), "cannot follow"),
        (lambda: graphprune.sensitivity(_net(), 0), "share of each group"),
        (lambda: graphprune.sensitivity(_net(), metric="acc"), "metric is a function"),  # type: ignore[arg-type]
        (lambda: graphprune.sweep(_net(), (0.3,), metric=lambda m: "x", **QUICK), "a number is"),
        (lambda: graphprune.sweep(_net(), kep=["4"]), "did you mean 'keep'"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        call()


def test_a_metric_that_fails_is_named_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("indices were scored before the metric was tried")

    monkeypatch.setattr(Score, "run", never)
    for call in (graphprune.sweep, graphprune.sensitivity):
        with pytest.raises(GraphPruneError, match=r"metric\(model\) failed: ZeroDivisionError"):
            call(_net(), metric=lambda _: 1 / 0, **QUICK)


def test_both_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "explored.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def net():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))\n"
        "def width(model):\n    return model[0].out_features\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shared = ["explored:net", "--compensate", "off", "--metric", "explored:width", "--json"]
    for command, extra in (("sensitivity", []), ("sweep", ["--at", "0.3,0.5"])):
        monkeypatch.setattr(sys, "argv", ["graphprune", command, *shared, *extra])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        shown = capsys.readouterr()
        found = json.loads(shown.out)
        assert found["base"] == 32.0 and found["schema"] == explored.SCHEMA
        assert "metric" in shown.err


def test_a_sweep_over_sizes_and_bits() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    found = graphprune.sweep(net, (0.05, 0.5), bits=(8, 32, 3), **QUICK)
    assert [(p.asked, p.bits) for p in found.points] == [
        (ratio, bits) for ratio in (0.05, 0.5) for bits in (32, 8, 3)
    ]
    first, eight, three = found.points[:3]
    assert first.params == eight.params and first.bytes > 2.5 * eight.bytes > 2.5 * three.bytes
    assert first.bytes == 4 * first.params
    assert eight.kept == pytest.approx(first.kept, abs=0.02)
    assert three.kept is not None and 0.0 < three.kept < min(first.kept, eight.kept)
    best = found.pareto
    assert eight in best and first not in best[1:]  # 8 bits lose next to nothing
    assert [p.bytes for p in best] == sorted((p.bytes for p in best), reverse=True)
    assert "8 bits" in found.plot().svg and "bits" in found.columns()[0]
    with pytest.raises(OptionError, match="whole numbers from 2 to 16"):
        graphprune.sweep(_net(), (0.2,), bits=(1,), **QUICK)


def test_pictures_and_pages(tmp_path: Path) -> None:
    several = graphprune.sensitivity(_net(), 0.5, **QUICK)
    sizes = graphprune.sweep(_net(), (0.2, 0.5), **QUICK)
    for found in (several, sizes):
        assert "<svg" in found._repr_html_() and 'role="img"' in found.plot().svg
        for ending in ("html", "json", "svg", "txt"):
            found.save(tmp_path / f"found.{ending}")
        page = (tmp_path / "found.html").read_text()
        assert found.plot().svg in page and "://" not in page.replace(
            "http://www.w3.org/2000/svg", ""
        )
        assert (tmp_path / "found.svg").read_text() == found.plot().file()
        with pytest.raises(GraphPruneError, match=r"is a \.html, "):
            found.save(tmp_path / "found.pdf")
    assert "2.weight[0]" in several.plot().svg


class _Block(nn.Module):
    """A block of a vision transformer: four heads, a feed-forward net of twice the width."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(wide), nn.LayerNorm(wide)
        self.read, self.write = nn.Linear(wide, 3 * wide), nn.Linear(wide, wide)
        self.up, self.down = nn.Linear(wide, 2 * wide), nn.Linear(2 * wide, wide)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, wide = x.shape
        q, k, v = self.read(self.first(x)).view(n, tokens, 3, 4, -1).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.write(seen.transpose(1, 2).reshape(n, tokens, wide))
        out: Tensor = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return out


class _Transformer(nn.Module):
    """A small vision transformer for 8 x 8 grey images: 16 patches, two blocks of width 32."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.places = (
            nn.Conv2d(1, 32, 2, 2),
            nn.Parameter(torch.randn(1, 16, 32) / 10),
        )
        self.blocks = nn.Sequential(_Block(32), _Block(32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).mT + self.places
        out: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return out


@pytest.mark.parametrize(
    ("made", "epochs", "error"),
    [
        ("perceptron", 3, 4.0),
        pytest.param("residual", 6, 2.0, marks=pytest.mark.slow),
        pytest.param("transformer", 8, 3.0, marks=pytest.mark.slow),
    ],
)
def test_predictions_are_as_near_as_the_documentation_says(
    made: str, epochs: int, error: float
) -> None:
    """docs/reports.md: 2.0, 1.2, and 1.6 to 3.0."""
    torch.manual_seed(0)
    layers = [part for n in (64, 48, 48) for part in (nn.Linear(n, 48), nn.ReLU())]
    perceptron = nn.Sequential(nn.Flatten(), *layers, nn.Linear(48, 10))
    nets = {"perceptron": lambda: perceptron, "residual": demo.DigitsNet}
    model = nets.get(made, _Transformer)()
    (images, labels), _ = demo.digits()
    demo.train(model, (images, labels), epochs, 3e-3, "training")
    found = graphprune.sensitivity(model, 0.5, data=images[:512])
    assert found.error is not None and found.error < error
    assert f"miss the measured ones by a factor of {found.error:.1f}" in str(found)


def test_what_no_curve_predicts_is_left_out() -> None:
    """Channels of queries and keys go last whatever they cost: that is no prediction."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(8, 16) for _ in range(3))
            self.out = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores = (self.q(x) @ self.k(x).transpose(1, 2)).softmax(-1)
            out: torch.Tensor = self.out(scores @ self.v(x))
            return out

    x = torch.randn(96, 4, 8)
    found = graphprune.sensitivity(Attention(), 0.5, data=x, compensate=True)
    told = {row.group: row.predicted for row in found.rows}
    assert told["q.weight[0]"] is None and told["v.weight[0]"] is not None
    assert found.error is None and found.correlation is None  # of two groups one is left


def _low_rank() -> nn.Module:
    """A wide layer of rank 6, which two layers can stand for, between two whose rank is full."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    with torch.no_grad():
        net[2].weight.copy_(torch.randn(64, 6) @ torch.randn(6, 64) / 20)
    return net


def test_a_sweep_over_ranks_beside_widths(tmp_path: Path) -> None:
    state = tmp_path / "sweep.json"
    options: dict[str, Any] = {"data": torch.randn(160, 8), "compensate": True, "effort": "fast"}
    by, net = ("rank", "width", "width+rank"), _low_rank()
    found = graphprune.sweep(net, (0.3, 0.6), by=by, bits=(32, 8), state=state, **options)
    assert [(p.asked, p.by, p.bits) for p in found.points] == [
        (ratio, way, bits)
        for ratio in (0.3, 0.6)
        for way in ("width", "width+rank", "rank")
        for bits in (32, 8)
    ]
    told = {(p.asked, p.by, p.bits): p for p in found.points}
    rank, width, both = (told[0.6, way, 32] for way in ("rank", "width", "width+rank"))
    assert rank.kept is not None and width.kept is not None and both.kept is not None
    assert both.kept > 0.99 > width.kept  # the one wide layer is of rank 6
    eight = told[0.6, "rank", 8]
    assert eight.kept == pytest.approx(rank.kept, abs=0.02) and 2 * eight.bytes < rank.bytes
    plan = graphprune.plan(net, 0.6, passes=graphprune.FACTOR, **options)
    small = plan.apply()
    assert sum(p.numel() for p in small.parameters()) == rank.params == rank.bytes / 4
    assert plan.report is not None and plan.report.agreement is not None
    assert rank.kept == pytest.approx(plan.report.agreement.kept, abs=1e-6)
    assert "width+rank" in str(found) and "rank, 8 bits" in found.plot().svg
    assert found.as_dict()["pareto"][-1][1] in by
    again = graphprune.sweep(net, (0.3, 0.6), by=by, bits=(32, 8), state=state, **options)
    assert again.points == found.points


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"by": "ranks"}, "did you mean 'rank'"),
        ({"by": ()}, "one or several of"),
        ({"by": 3}, "one or several of"),
        ({"by": "rank", "of": "memory"}, "ranks are chosen for params and macs"),
        ({"by": "rank", "passes": ["couple"]}, "by=\"width\""),
        ({"by": "width+rank"}, "pass data="),
    ],
)  # fmt: skip
def test_ways_that_make_no_sense_are_refused(given: Any, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        graphprune.sweep(_low_rank(), (0.3,), **{**QUICK, **given})


def test_ranks_of_a_file_are_swept(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    torch.onnx.export(_low_rank().eval(), (X,), path, dynamo=True, verbose=False)
    found = graphprune.sweep(str(path), (0.4,), by="rank", bits=(32, 6), compensate=False)
    first, few = found.points
    assert first.kept is not None and first.kept > 0.99
    assert few.kept is not None and 0.9 < few.kept < first.kept
