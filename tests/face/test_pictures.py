"""A folder of pictures as calibration data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.core.errors import GraphPruneError
from graphprune.models import given_data
from graphprune.pictures import read_pictures

image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    (tmp_path / "cats").mkdir()
    for number in range(6):
        pixels = generator.integers(0, 255, (20 + number, 40, 3), dtype=np.uint8)
        image.fromarray(pixels).save(tmp_path / "cats" / f"{number}.png")
    image.fromarray(np.full((10, 30), 255, np.uint8)).save(tmp_path / "white.jpg")
    return tmp_path


def test_pictures_are_cut_to_the_middle_and_normalised(folder: Path) -> None:
    found = read_pictures(folder, None, 10, (16, 12))
    assert found.shape == (7, 3, 16, 12)
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(found[-1, :, 8, 6], white, atol=0.02)
    assert len(read_pictures(folder, None, 3, (16, 12))) == 3


def test_the_model_tells_size_and_mean(folder: Path) -> None:
    net = nn.Identity()
    net.pretrained_cfg = {"input_size": (3, 8, 8), "mean": (1, 1, 1), "std": (1, 1, 1)}
    found = read_pictures(folder, net, 10)
    assert found.shape == (7, 3, 8, 8)
    assert float(found[-1].max()) == pytest.approx(0, abs=0.02)


def test_a_folder_is_data_for_a_plan(folder: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    example = torch.zeros(2, 3, 16, 16)
    plan = graphprune.plan(net, 0.5, data=folder, example_inputs=example, compensate=False)
    assert sum(batch.samples for batch in plan.live().batches) == 7


def test_what_is_no_picture_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(GraphPruneError, match=r"cannot read .*broken\.png"):
        read_pictures(folder, None, 10)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(GraphPruneError, match="there are no pictures"):
        read_pictures(empty, None, 10)


@pytest.mark.parametrize(("shape", "read"), [((2, 3, 16, 12), (16, 12)), ((2, 3, 0, 0), None)])
def test_an_onnx_model_tells_the_size_of_its_pictures(
    folder: Path,
    shape: tuple[int, ...],
    read: tuple[int, int] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    onnx = pytest.importorskip("onnx")
    make = onnx.helper
    named = [size or f"d{at}" for at, size in enumerate(shape)]
    image_in = make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, named)
    out = make.make_tensor_value_info("y", onnx.TensorProto.FLOAT, named)
    graph = make.make_graph([make.make_node("Relu", ["x"], ["y"])], "net", [image_in], [out])
    model = make.make_model(graph)
    caplog.set_level("INFO", "graphprune")
    found = given_data(folder, model)
    assert tuple(found.shape[-2:]) == (read or (224, 224))
    assert ("the size is a guess" in caplog.text) is (read is None)
    assert "ImageNet" in caplog.text
    for held in (model.graph.input, model.graph.output):
        name = held[0].name
        del held[:]
        held.append(make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 16, 12, 3]))
    assert given_data(folder, model).shape[1:] == (16, 12, 3)
