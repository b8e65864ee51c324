"""int8 by other libraries, judged on inputs that calibration did not see."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from click.testing import Result
from torch import nn
from typer.testing import CliRunner

import graphprune
from graphprune import OptionError
from graphprune.cli import app
from graphprune.core.errors import GraphPruneError
from tests.training.nets import INPUTS, LABELS, cnn, train


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A trained network."""
    net = cnn()
    train(net, torch.optim.Adam(net.parameters(), 1e-2), 30)
    return net.eval()


@pytest.fixture(scope="module")
def file(model: nn.Module, tmp_path_factory: Any) -> Path:
    """The network as an ONNX file of any batch size."""
    path: Path = tmp_path_factory.mktemp("int8") / "net.onnx"
    graphprune.plan(model, 0.0, example_inputs=INPUTS[:2], compensate=False).write(path)
    return path


def test_a_file_is_quantised_and_judged(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    out = tmp_path / "out.onnx"
    done = graphprune.quantise(file, INPUTS, out=out)
    types = {node.op_type for node in onnx.load(out).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= types
    assert any(x.data_type == onnx.TensorProto.INT8 for x in done.model.graph.initializer)
    assert done.kept is not None and done.kept > 0.95
    assert 0 < done.inputs < len(INPUTS) and "from data" in done.source
    assert "inputs that calibration did not see" in str(done)
    assert file.read_bytes() == content
    with pytest.raises(GraphPruneError, match="int8 operations already"):
        graphprune.quantise(out, INPUTS)


def test_weights_alone_need_no_calibration(file: Path) -> None:
    done = graphprune.quantise(onnx.load(file), INPUTS, kind="dynamic")
    assert "dynamic" in done.note and done.kept is not None and done.kept > 0.95


class Residual(nn.Module):
    """A residual block that calls one ReLU twice, as those of torchvision do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.other, self.relu = nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.norm(self.first(x)))
        out: torch.Tensor = self.relu(self.other(self.second(y)) + x)
        return out


def test_a_module_that_is_called_twice_is_quantised() -> None:
    pytest.importorskip("torchao")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), Residual(), Residual()).eval()
    done = graphprune.quantise(net, torch.randn(64, 3, 12, 12))
    assert done.kept is not None and done.kept > 0.95
    named = [node.name for node in done.model.graph.nodes]
    assert sum(name.startswith("quantize") for name in named) > 4


def test_a_module_is_quantised_by_torchao(model: nn.Module) -> None:
    pytest.importorskip("torchao")
    state = {k: v.clone() for k, v in model.state_dict().items()}
    done = graphprune.quantise(model, INPUTS)
    assert isinstance(done.model, torch.fx.GraphModule)
    assert done.bytes[1] < done.bytes[0] and done.kept is not None and done.kept > 0.9
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_what_cannot_be_meant_is_refused(model: nn.Module, file: Path, tmp_path: Path) -> None:
    for given, options, words in (
        (file, {"kind": "statik"}, "no kind"),
        (file, {"samples": 1}, "samples"),
        (file, {"out": tmp_path / "x.pt"}, "onnx"),
        (model, {"kind": "dynamic"}, "ONNX models"),
        (model, {"out": tmp_path / "x.onnx"}, "ONNX models"),
    ):
        with pytest.raises(GraphPruneError, match=words):
            graphprune.quantise(given, INPUTS, **options)  # type: ignore[arg-type]


def test_a_file_whose_tensors_are_large(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.frontends.onnx.slim.LARGE", 64)  # they stay in the file
    done = graphprune.quantise(file, INPUTS, samples=16)
    assert done.kept is not None and done.kept > 0.9


def test_the_command_line(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    data = tmp_path / "data.pt"
    torch.save(INPUTS, data)
    arguments = ["quantise", str(file), "-o", str(out), "--data", str(data)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0 and f"wrote {out}" in result.output and out.exists()
    with pytest.raises(GraphPruneError, match="--force"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def _shrunk(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["shrink", *arguments, "--int8", "--effort", "fast"])


@pytest.mark.parametrize("given", ["file", "module", "module in steps"])
def test_shrink_quantises_what_it_writes(
    given: str, model: nn.Module, file: Path, tmp_path: Path
) -> None:
    out, data, whole = tmp_path / "small.onnx", tmp_path / "data.pt", tmp_path / "net.pt"
    torch.save((INPUTS, LABELS) if given == "module" else INPUTS, data)
    torch.save(model, whole)
    steps = ["--steps", "2"] if "steps" in given else []
    named = str(file if given == "file" else whole)
    result = _shrunk(named, "-o", str(out), "--data", str(data), "--json", *steps)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["int8"]["kept"] > 0.9 and "from data" in told["int8"]["source"]
    assert told["params"][0] > told["params"][1]
    made = onnx.load(out)
    assert any(x.data_type == onnx.TensorProto.INT8 for x in made.graph.initializer)
    assert f"wrote {out}" in result.stderr and "int8:" in result.stderr


def test_shrink_refuses_int8_before_the_work(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphprune.api.planned", _fails)
    out, whole = tmp_path / "small.onnx", tmp_path / "int8.onnx"
    result = _shrunk(f"{__name__}:cnn", "-o", str(out.with_suffix(".pt")))
    assert "--int8 quantises the .onnx file" in str(result.exception)
    graphprune.quantise(file, INPUTS, samples=16, out=whole)
    assert "int8 operations already" in str(_shrunk(str(whole), "-o", str(out)).exception)
    monkeypatch.setitem(sys.modules, "onnxruntime.quantization", None)
    result = _shrunk(str(file), "-o", str(out))
    assert "pip install 'graphprune[ort]'" in str(result.exception) and not out.exists()


def test_a_deployment_goes_on_where_it_was_interrupted(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(5))
    options: dict[str, Any] = {
        "data": data, "out": tmp_path / "small.onnx", "folder": tmp_path / "stages",
        "recover": {"epochs": 1, "batch_size": 16}, "effort": "fast",
        "metric": lambda predict: float(predict(INPUTS).abs().mean()),
    }  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("graphprune.deploying.stages.quantise", _fails)
        with pytest.raises(RuntimeError, match="interrupted"):
            graphprune.deploy(model, 0.5, **options)
    assert not (tmp_path / "small.onnx").exists()
    with monkeypatch.context() as patch:
        patch.setattr("graphprune.deploying.stages.planned", _fails)
        done = graphprune.deploy(model, 0.5, **options)
    assert [stage.name for stage in done.stages] == ["original", "shrink", "recover", "int8"]
    first, small, _, last = done.stages
    assert first.kept == 1 and first.same == 1 and small.parameters < 0.6 * first.parameters
    assert small.kept is not None and small.kept > 0.8 and last.zipped < first.zipped
    assert all(stage.metric is not None and stage.seconds for stage in done.stages)
    assert "same answer" in str(done) and done.as_dict()["compression"] == done.compression
    assert (tmp_path / "small.onnx").read_bytes() == (tmp_path / "stages/int8.onnx").read_bytes()
    with pytest.raises(GraphPruneError, match="another deployment"):
        graphprune.deploy(model, 0.6, **options)


@pytest.mark.parametrize(
    ("times", "kind"),
    [((1.0, 0.5, 0.6), "dynamic"), ((1.0, 2.0, 1.05), "weights"), ((1.0, 1.2, 1.3), "static")],
)
def test_a_deployment_takes_the_int8_that_is_faster_or_smaller(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: Any, kind: str
) -> None:
    marks = ("QuantizeLinear", "DynamicQuantizeLinear", "Cast")  # of static, dynamic and weights

    def time(model: onnx.ModelProto) -> float:
        held = {node.op_type for node in model.graph.node}
        return next((t for t, mark in zip(times, marks, strict=True) if mark in held), 1.0)

    monkeypatch.setattr("graphprune.frontends.onnx.speed.speed", lambda a, b, _: (time(a), time(b)))
    monkeypatch.setattr("graphprune.quantising.best.ALIKE", 1.0)
    done = graphprune.deploy(
        file, 0.3, data=INPUTS, out=tmp_path / "small.onnx", compensate=False, verify=False
    )
    assert any(note.startswith(f"int8: {kind}") for note in done.warnings)


def test_a_deployment_tells_where_agreement_is_low(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphprune.quantising.best.ALIKE", -1.0)  # no agreement is enough
    options: Any = {"compensate": False, "verify": False}
    done = graphprune.deploy(file, 0.3, data=INPUTS, out=tmp_path / "small.onnx", **options)
    assert any(note.startswith("int8: static") for note in done.warnings)
    assert not any("agreement is low" in note for note in done.warnings)
    monkeypatch.setattr("graphprune.deploying.deployed.POOR", 1.1)  # whatever it is, it is low
    done = graphprune.deploy(file, 0.3, data=INPUTS, out=tmp_path / "small.onnx", **options)
    assert any("agreement is low: outputs keep" in note for note in done.warnings)
    assert "or lower the ratio" in str(done)


def _fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("interrupted")


def test_deployments_of_files_and_what_is_refused(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    result = CliRunner().invoke(
        app, ["deploy", str(file), "-o", str(out), "--compensate", "off", "--no-int8"],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0 and "shrink" in result.output and out.exists()
    with pytest.raises(OptionError, match="trains a module"):
        graphprune.deploy(file, out=out, recover=True)
    with pytest.raises(OptionError, match="metric"):
        graphprune.deploy(file, out=out, metric=3)  # type: ignore[arg-type]


def test_a_deployment_takes_a_budget(file: Path, tmp_path: Path) -> None:
    """A ratio that nobody gave was told to be left out."""
    out = tmp_path / "small.onnx"
    command = ["deploy", str(file), "-o", str(out), "--compensate", "off", "--no-int8"]
    asked = ["--budget", "params=0.3", "--budget", "macs=0.2", "--json"]
    result = CliRunner().invoke(app, [*command, *asked], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    original, small = json.loads(result.stdout)["stages"]
    assert small["parameters"] <= 0.71 * original["parameters"]
