"""Files of which the data of large tensors is not parsed."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

import graphprune
from graphprune.frontends.onnx import model, slim
from graphprune.frontends.onnx.model import read_model
from tests import blocks
from tests.frontends.onnx.exports import export, normal, two_layers


@pytest.fixture(autouse=True)
def _all_tensors_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slim, "LARGE", 8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(two_layers(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("exporter", ["trace", "export"])
@pytest.mark.parametrize("name", ["residual", "attention"])
def test_what_is_left_out_is_read_from_the_file(name: str, exporter: str, tmp_path: Path) -> None:
    build, inputs = blocks.BLOCKS[name]
    whole = export(build(), inputs(), exporter)
    onnx.save(whole, tmp_path / "model.onnx")
    source = read_model(tmp_path / "model.onnx")
    assert source.model.ByteSize() < whole.ByteSize() / 2
    for tensor in whole.graph.initializer:
        expected = onnx.numpy_helper.to_array(tensor)
        np.testing.assert_array_equal(source.array(tensor.name), expected)
        assert not source.is_apart(tensor.name)
    for tensor in source.model.graph.initializer:
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    for tensor in whole.graph.initializer:
        if len(tensor.raw_data) >= slim.LARGE:
            tensor.ClearField("raw_data")
            tensor.ClearField("data_location")
    assert source.model == whole


def _bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model without its notes, which tell the name of the file that it was made of."""
    assert model.metadata_props
    del model.metadata_props[:]
    return model


def test_the_result_is_that_of_a_model_in_memory(path: Path) -> None:
    plan = graphprune.plan(path, 0.5, effort="fast")
    small = path.with_name("small.onnx")
    plan.write(small)
    assert [f.name for f in path.parent.iterdir() if f.suffix == ".data"] == []
    expected = graphprune.shrink(onnx.load(path), 0.5, effort="fast")
    assert _bare(onnx.load(small)) == _bare(expected) == _bare(plan.apply())


@pytest.mark.parametrize("kind", [TensorProto.INT8, TensorProto.INT4, TensorProto.BFLOAT16])
def test_other_types(kind: int, path: Path) -> None:
    model = two_layers()
    array = np.arange(-8, 8).astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    model.graph.initializer.append(onnx.numpy_helper.from_array(array, "more"))
    onnx.save(model, path)
    source = read_model(path)
    assert source.is_external("more")
    np.testing.assert_array_equal(source.array("more"), array)


@pytest.mark.parametrize("held", [0, model.HELD])
def test_weights_are_read_once_as_far_as_they_fit(
    held: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = graphprune.shrink(onnx.load(path), 0.5, effort="fast")
    monkeypatch.setattr(model, "HELD", held)
    read: Counter[str] = Counter()
    plainly = slim.OwnFile.read

    def counted(self: slim.OwnFile, proto: TensorProto) -> Any:
        read[proto.name] += 1
        return plainly(self, proto)

    monkeypatch.setattr(slim.OwnFile, "read", counted)
    plan = graphprune.plan(path, 0.5, effort="fast")
    assert _bare(plan.apply()) == _bare(expected)
    assert (max(read.values()) == 1) == bool(held)


def test_a_link_to_a_file_elsewhere(path: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    link = tmp_path / "other" / "link.onnx"
    os.symlink(path, link)
    first, other = (_bare(graphprune.shrink(p, 0.5, compensate=False)) for p in (link, path))
    assert first == other


def test_a_file_that_changed_is_not_mixed_with_the_old_one(path: Path) -> None:
    plan = graphprune.plan(path, 0.5, compensate=False)
    onnx.save(two_layers(24), path)
    with pytest.raises(graphprune.LiftError, match="has changed since it was read"):
        plan.apply()


def test_an_input_that_is_its_own_output(path: Path) -> None:
    expected = graphprune.shrink(path, 0.5, effort="fast")
    graphprune.plan(path, 0.5, effort="fast").write(path)
    assert onnx.load(path) == expected


def test_data_that_is_too_short_is_named(path: Path) -> None:
    model = two_layers()
    model.graph.initializer[0].raw_data = normal(3).tobytes()
    onnx.save(model, path)
    with pytest.raises(graphprune.LiftError, match="cannot read tensor w1"):
        graphprune.shrink(path, 0.5, compensate=False)


@pytest.mark.parametrize(
    "data", [b"\x3b", b"\x3a", b"\x3a\x05ab", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"]
)
def test_what_is_no_protobuf(data: bytes) -> None:
    with pytest.raises(DecodeError):
        slim.slim(memoryview(data))


def test_fields_that_no_version_knows_stay(path: Path) -> None:
    known = path.read_bytes()
    unknown = bytes([15 << 3 | 0, 3, 15 << 3 | 5, 1, 2, 3, 4, 15 << 3 | 1, *range(8)])
    found = ModelProto.FromString(slim.slim(memoryview(known + unknown)))
    assert found.SerializeToString().endswith(unknown)
