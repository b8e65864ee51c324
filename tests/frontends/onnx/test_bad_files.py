"""Damaged and unusual files: one line that names the cause, and no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

import graphprune
from graphprune import cli
from graphprune.core.errors import GraphPruneError
from tests.frontends.onnx.exports import graph, normal, shapes, two_layers


def _cyclic(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "r"


def _future(model: ModelProto) -> None:
    model.opset_import[0].version = 999


def _ancient(model: ModelProto) -> None:
    model.opset_import[0].version = 3


def _inconsistent(model: ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(normal(9, 16), "w1"))


def _wrong_type(model: ModelProto) -> None:
    array = np.ones((8, 16), np.int64)
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, "w1"))


def _short(model: ModelProto) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]


def _twice(model: ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _same_result(model: ModelProto) -> None:
    model.graph.node[1].output[0] = "h"


def _undefined(model: ModelProto) -> None:
    model.graph.node[2].input[0] = "nowhere"


def _no_operator(model: ModelProto) -> None:
    model.graph.node[2].op_type = "Rectify"


def _no_nodes(model: ModelProto) -> None:
    del model.graph.node[:]


def _no_weights(model: ModelProto) -> None:
    del model.graph.initializer[:]


def _elsewhere(model: ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="missing.bin")


def _outside(model: ModelProto) -> None:
    _elsewhere(model)
    model.graph.initializer[0].external_data[0].value = "../../../etc/passwd"


def _sequence_input(model: ModelProto) -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(1, [2]))
    model.graph.input.append(helper.make_value_info("s", kind))


def _no_input(model: ModelProto) -> None:
    model.graph.initializer.append(onnx.numpy_helper.from_array(normal(2, 8), "x"))


def _no_shape(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def _unknown_type(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 29


def _four_bits(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = 23  # FLOAT4E2M1, from onnx 1.18 on


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_cyclic, "topologically sorted|nothing provides"),
        (_future, "opset 999"),
        (_ancient, "opset 3"),
        (_inconsistent, "Incompatible dimensions"),
        (_wrong_type, "MatMul|type"),
        (_short, "cannot read tensor w1|size"),
        (_twice, "two initializers are called w1"),
        (_same_result, "used as output names multiple times|SSA"),
        (_undefined, "nowhere"),
        (_no_operator, "Rectify"),
        (_no_nodes, "no nodes"),
        (_no_weights, "nowhere|w1"),
        (_elsewhere, "missing.bin"),
        (_outside, "outside the model's folder|missing|should be"),
        (_sequence_input, "input s is not a tensor"),
        (_four_bits, "no group of channels can be removed|tensor w1"),
        (_no_input, "takes no inputs"),
        (_no_shape, "input x states no shape"),
        (_unknown_type, "elements of an unknown type, 29"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_error_names_the_cause(
    spoil: Callable[[ModelProto], None], message: str, tmp_path: Path
) -> None:
    model = two_layers()
    spoil(model)
    path = tmp_path / "bad.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(GraphPruneError, match=message) as caught:
        graphprune.shrink(path, 0.5, compensate=False)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 a zip", b"x" * 999, b"\x08\x07\x12"])
def test_other_files(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(data)
    with pytest.raises(GraphPruneError, match="not an ONNX file"):
        graphprune.shrink(path, 0.5, compensate=False)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    for name in ("none.onnx", "folder.onnx"):
        with pytest.raises(GraphPruneError, match=f"cannot read .*{name}"):
            graphprune.shrink(tmp_path / name, 0.5, compensate=False)


def test_names_that_are_not_text(tmp_path: Path) -> None:
    path = tmp_path / "names.onnx"
    path.write_bytes(two_layers().SerializeToString().replace(b"relu", b"re\xff\xfe"))
    with pytest.raises(GraphPruneError, match="a name that is not text"):
        graphprune.shrink(path, 0.5, compensate=False)


def test_zero_size_weights_do_no_harm() -> None:
    model = two_layers()
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.zeros((0, 3), np.float32), "empty")
    )
    small = graphprune.shrink(model, 0.5, compensate=False)
    assert "empty" not in shapes(small)  # nothing reads it


def test_a_single_node_has_nothing_to_give() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = graph(nodes, {"w": normal(8, 3)}, {"x": ["n", 8]}, {"y": ["n", 3]})
    with pytest.raises(GraphPruneError, match="no group of channels can be removed"):
        graphprune.shrink(model, 0.5, compensate=False)


def test_example_inputs_are_checked() -> None:
    with pytest.raises(GraphPruneError, match=r"no input 'z'.*\['x'\]"):
        graphprune.shrink(two_layers(), 0.5, example_inputs={"z": normal(2, 8)}, compensate=False)
    with pytest.raises(GraphPruneError, match="2 example inputs"):
        graphprune.shrink(
            two_layers(), 0.5, example_inputs=(normal(2, 8), normal(2, 8)), compensate=False
        )
    with pytest.raises(GraphPruneError, match="inconsistent"):
        graphprune.shrink(two_layers(), 0.5, example_inputs=normal(2, 9), compensate=False)


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "bad.onnx", tmp_path / "o.onnx"
    path.write_bytes(two_layers().SerializeToString()[:-50])
    monkeypatch.setattr(sys, "argv", ["graphprune", "shrink", str(path), "-o", str(out)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert "Traceback" not in printed
    assert not out.exists()


VALID = two_layers().SerializeToString()


@settings(
    max_examples=80, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=4
    ),
    cut=st.integers(0, len(VALID)),
    cuts=st.booleans(),
)
def test_mutated_files(edits: list[tuple[int, int]], cut: int, cuts: bool, tmp_path: Path) -> None:
    data = bytearray(VALID)
    for at, byte in edits:
        data[at] = byte
    path = tmp_path / "mutated.onnx"
    path.write_bytes(data[:cut] if cuts else data)
    with suppress(GraphPruneError):
        graphprune.shrink(path, 0.5, compensate=False)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["w1", "w2"])
def test_a_weight_that_is_not_finite_is_named(name: str, number: float) -> None:
    model = two_layers()
    for tensor in model.graph.initializer:
        if tensor.name == name:
            held = onnx.numpy_helper.to_array(tensor).copy()
            held.flat[5] = number
            tensor.CopyFrom(onnx.numpy_helper.from_array(held, name))
    with pytest.raises(GraphPruneError, match=f"^{name} holds NaN or infinite values"):
        graphprune.shrink(model, 0.5, compensate=False)
