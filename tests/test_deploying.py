"""Deployments: what cannot be meant is refused first, and a folder of stages is not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import graphprune
from graphprune.core.errors import GraphPruneError, OptionError
from graphprune.deploying.deployed import Deployed
from tests.frontends.onnx.exports import normal, two_layers

pytest.importorskip("onnxruntime")


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def _deployed(model: Any, out: Path, **options: Any) -> Deployed:
    given: dict[str, Any] = {"int8": False, "compensate": False, **options}
    return graphprune.deploy(model, 0.5, out=out, **given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratos": {}}, "deploy has no option 'ratos': did you mean 'ratios'"),
        ({"recover": {"epoch": 3}}, "recover has no option 'epoch': did you mean 'epochs'"),
        ({"recover": {3: 3}}, "recover has no option 3"),
        ({"recover": {"epochs": 0}}, "epochs is a whole number of at least 1"),
    ],
)
def test_options_are_refused_before_the_work(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        _deployed(_net(), tmp_path / "small.onnx", folder=tmp_path / "stages", **options)
    assert not list(tmp_path.iterdir())


def test_an_exported_program_of_one_size(tmp_path: Path) -> None:
    file, out = tmp_path / "net.pt2", tmp_path / "small.onnx"
    torch.export.save(torch.export.export(_net(), (torch.randn(6, 8),)), file)
    done = _deployed(file, out, int8="dynamic")  # inputs are made: in sixes
    shapes = [x.type.tensor_type.shape.dim for x in onnx.load(out).graph.input]
    assert [[dim.dim_value for dim in shape] for shape in shapes] == [[6, 8]]
    assert done.stages[1].parameters < 0.6 * done.stages[0].parameters


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"key": "", "macs": 3}', "\xff"])
def test_a_state_that_is_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(content.encode("latin1"))
    with pytest.raises(GraphPruneError, match="holds no state of a deployment"):
        _deployed(two_layers(), tmp_path / "small.onnx", folder=tmp_path)


def test_a_damaged_stage_is_made_anew(tmp_path: Path) -> None:
    out, data = tmp_path / "small.onnx", normal(64, 8)
    _deployed(two_layers(), out, data=data, folder=tmp_path / "stages")
    whole = out.read_bytes()
    (tmp_path / "stages" / "shrink.onnx").write_bytes(whole[:-5])
    _deployed(two_layers(), out, data=data, folder=tmp_path / "stages")
    assert out.read_bytes() == whole


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(GraphPruneError, match=r"bad\.onnx"):
        _deployed(tmp_path / "bad.onnx", tmp_path / "small.onnx")
