"""What callers hand in fails by its own name: functions, data that do not fit, empty inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune import GraphPruneError, OptionError
from graphprune.core.callers import called, check_function, judged

DATA = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))


def net(inputs: int = 8, outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs)).eval()


def failing(*_: Any) -> Any:
    raise KeyError("mine")


def _quantised(**given: Any) -> Any:
    pytest.importorskip("torchao")
    return graphprune.quantise(net(), **given)


DOORS: dict[str, Any] = {
    "shrink": lambda **given: graphprune.shrink(net(), 0.5, **given),
    "unchecked": lambda **given: graphprune.shrink(net(), 0.5, verify=False, **given),
    "steps": lambda **given: graphprune.shrink(net(), 0.5, steps=2, **given),
    "sparsify": lambda **given: graphprune.sparsify(net(), 0.5, **given),
    "compact": lambda **given: graphprune.compact(net(), **given),
    "factor": lambda **given: graphprune.factor(net(), 0.2, **given),
    "sweep": lambda **given: graphprune.sweep(net(), (0.5,), **given),
    "sensitivity": lambda **given: graphprune.sensitivity(net(), **given),
    "quantise": _quantised,
    "deploy": lambda **given: graphprune.deploy(net(), out="never.onnx", **given),
    "analyze": lambda **given: graphprune.analyze(net(), **given),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (torch.zeros(0, 8), r"example_inputs holds no sample: 'argument 1' is of shape \(0, 8\)"),
        ({"input": np.zeros((0, 8))}, "holds no sample: 'input'"),
        (torch.full((2, 8), torch.nan), r"example_inputs holds NaN in 'argument 1' at \(0, 0\)"),
        ((torch.tensor([[0.0, torch.inf] * 4]),), "example_inputs holds infinity"),
    ],
)
def test_inputs_without_a_sample_or_with_what_is_no_number(
    door: str, inputs: Any, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GraphPruneError, match=says):
        DOORS[door](example_inputs=inputs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("door", [name for name in DOORS if name != "analyze"])
def test_data_that_are_one_number(door: str) -> None:
    with pytest.raises(GraphPruneError, match="data is a single number"):
        DOORS[door](data=torch.tensor(1.0))


def test_samples_of_several_shapes_are_not_deployed(tmp_path: Path) -> None:
    with pytest.raises(GraphPruneError, match="batch 1 is 1 x 9 float32, one of batch 0 1 x 8"):
        graphprune.deploy(net(), data=[DATA[:4], torch.randn(4, 9)], out=tmp_path / "small.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("teacher", "data", "says"),
    [
        (net(), torch.randn(8, 9), r"the teacher does not take inputs of 2 x 9 float32"),
        (net(), DATA.long(), r"the teacher does not take inputs of 2 x 8 int64"),
        (net(), [DATA[:8], torch.randn(8, 9)], "does not take inputs of 8 x 9|of 2 x 9 float32"),
        (net(9), torch.randn(8, 9), r"the smaller model does not take.*that the smaller one was"),
        (net(8, 5), DATA, r"the student gives \(2, 4\) where the teacher gives \(2, 5\)"),
    ],
)
def test_recover_tries_both_models_first(teacher: Any, data: Any, says: str) -> None:
    with pytest.raises(GraphPruneError, match=says):
        graphprune.recover(net(), teacher, data, callback=lambda step, loss: pytest.fail("trained"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"loss": "mse"}, r"loss is a function \(outputs, labels\), not 'mse'"),
        ({"callback": lambda: None}, r"callback is called with \(step, loss\), and takes \(\)"),
        ({"temperature": 0}, "temperature is a number above 0"),
        ({"rate": "fast"}, "rate is the share of each weight"),
        ({"seconds": "long"}, "seconds is a number"),
        ({"teacher": "resnet18"}, "teacher is a torch.nn.Module, not a str"),
    ],
)
def test_options_of_recover(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        graphprune.recover(net(), **{"teacher": net(), "data": DATA, **options})


def test_whose_function_fails() -> None:
    labels = torch.zeros(32, dtype=torch.long)
    calls: list[Any] = [
        ("callback(step, loss) of step 1",
         lambda: graphprune.recover(net(), net(), DATA, callback=failing)),
        ("loss(outputs, labels)",
         lambda: graphprune.recover(net(), net(), (DATA, labels), loss=failing)),
        ("callback(model, step) of step 1",
         lambda: graphprune.shrink(net(), 0.5, steps=2, callback=failing, compensate=False)),
        ("metric(model)", lambda: graphprune.sensitivity(net(), data=DATA, metric=failing)),
    ]  # fmt: skip
    for name, call in calls:
        with pytest.raises(GraphPruneError) as error:
            call()
        assert str(error.value) == f"{name} failed: KeyError: 'mine'"
        assert isinstance(error.value.__cause__, KeyError)
    with pytest.raises(OptionError, match="returns no scalar"):
        graphprune.recover(net(), net(), (DATA, labels), loss=lambda outputs, labels: outputs)


def test_functions_are_held_against_what_they_are_called_with() -> None:
    check_function("metric", None, "model")
    check_function("metric", len, "model")
    check_function("loss", nn.CrossEntropyLoss(), "outputs", "labels")
    with pytest.raises(OptionError, match=r"metric is called with \(model\), and takes \(a, b\)"):
        check_function("metric", lambda a, b: 0, "model")
    assert called("f()", lambda: 3) == 3 and judged("f()", lambda: np.float32(0.5)) == 0.5
    with pytest.raises(OptionError, match=r"f\(\) returned 'good': a number is needed"):
        judged("f()", lambda: "good")


def test_integers_are_no_data_for_a_file_of_floats(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    graphprune.plan(net(), 0.1, compensate=False, verify=False).write(file)
    with pytest.raises(GraphPruneError, match=r"holds int64 for input \w+, which takes float32"):
        graphprune.shrink(file, 0.3, data=DATA.long())
    small = graphprune.shrink(file, 0.3, data=DATA.double(), compensate=False)
    assert small.graph.node
