"""int8 files of small networks: weights alone in eight bits, and short names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import graphprune
from graphprune.core.errors import GraphPruneError
from graphprune.frontends.onnx.eight_bits import in_eight_bits
from graphprune.quantising.files import answers
from graphprune.quantising.lean import lean
from tests.training.nets import INPUTS, cnn, train


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network as an ONNX file of any batch size."""
    net = cnn()
    train(net, torch.optim.Adam(net.parameters(), 1e-2), 30)
    path = tmp_path_factory.mktemp("files") / "net.onnx"
    graphprune.plan(net.eval(), 0.0, example_inputs=INPUTS[:2], compensate=False).write(path)
    return path


def _names(model: onnx.ModelProto) -> list[list[str]]:
    return [[item.name for item in held] for held in (model.graph.input, model.graph.output)]


def test_weights_alone_are_nearly_exact_and_cost_no_time(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    done = graphprune.quantise(file, INPUTS, kind="weights", names=False, out=out)
    assert done.kept is not None and done.kept > 0.999 and "weights alone" in done.note
    assert done.bytes[1] == out.stat().st_size < graphprune.quantise(file, INPUTS).bytes[1]
    options, optimised = ort.SessionOptions(), tmp_path / "optimised.onnx"
    options.optimized_model_filepath, options.log_severity_level = str(optimised), 3
    ort.InferenceSession(out, options)
    left = {node.op_type for node in onnx.load(optimised).graph.node}
    assert not left & {"Cast", "Mul"}  # they are computed when the file is loaded
    with pytest.raises(GraphPruneError, match="int8 operations already"):
        graphprune.quantise(out, INPUTS)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_weights_are_off_by_half_a_step_of_their_best_dimension(dtype: Any) -> None:
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(24, 32)) * 10.0 ** generator.uniform(-3, 0, (1, 32))
    weight[:, 3] = 0
    weight = weight.astype(dtype)
    model = _graph([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, (2, 24), (2, 32))
    made = in_eight_bits(model)
    held = {x.name: numpy_helper.to_array(x) for x in made.graph.initializer}
    assert held["w_scale"].shape == (1, 32) and held["w_int8"].dtype == np.int8
    step = held["w_scale"].astype(np.float32)
    off = np.abs(held["w_int8"] * step - weight.astype(np.float32))
    assert (off <= step * (0.501 if dtype == np.float32 else 0.6)).all()


def _graph(
    nodes: list[Any], held: dict[str, Any], given: tuple[int, ...], out: tuple[int, ...]
) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(next(iter(held.values())).dtype)
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, given)],
        [helper.make_tensor_value_info("y", kind, out)],
        [numpy_helper.from_array(value, name) for name, value in held.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_short_names_change_no_answer(file: Path) -> None:
    for kind in ("static", "dynamic", "weights"):
        whole = graphprune.quantise(file, INPUTS, kind=kind).model
        before = whole.SerializeToString()
        made = lean(whole)
        onnx.checker.check_model(made, full_check=True)
        assert whole.SerializeToString() == before and _names(made) == _names(whole)
        assert made.ByteSize() < 0.9 * whole.ByteSize()
        feeds = [{made.graph.input[0].name: INPUTS.numpy()}]
        assert torch.equal(answers(made, feeds)[0][0], answers(whole, feeds)[0][0])


def test_short_names_reach_into_graphs_inside_nodes() -> None:
    branch = [
        helper.make_graph(
            [helper.make_node("Add", ["middle", name], [f"inner {name}"])], name, [],
            [helper.make_tensor_value_info(f"inner {name}", onnx.TensorProto.FLOAT, None)],
        )
        for name in ("one", "other")
    ]  # fmt: skip
    nodes = [
        helper.make_node("Mul", ["x", "twin"], ["middle"], "named", doc_string="words"),
        helper.make_node("ReduceMax", ["middle"], ["largest"], keepdims=0),
        helper.make_node("Greater", ["largest", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    ones = np.ones(3, np.float32)
    held = {"one": ones, "other": 2 * ones, "twin": ones, "zero": np.zeros((), np.float32)}
    model = _graph(nodes, held, (3,), (3,))
    made = lean(model)
    onnx.checker.check_model(made, full_check=True)
    assert len(made.graph.initializer) == 3  # the twins are one
    assert all(len(name) <= 1 for node in made.graph.node for name in (*node.input, node.name))
    for sign in (1, -1):
        feeds = [{"x": sign * ones}]
        assert torch.equal(answers(made, feeds)[0][0], answers(model, feeds)[0][0])


def test_a_small_file_is_pruned_like_any_other(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    graphprune.quantise(file, INPUTS, kind="weights", names=False, out=out)
    plan = graphprune.plan(out, 0.5, data=INPUTS, effort="fast")
    plan.write(tmp_path / "half.onnx")
    assert plan.report is not None and plan.report.params[1] < 0.55 * plan.report.params[0]


def test_a_deployment_takes_the_smaller_kind(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(16, 24), nn.LayerNorm(24), nn.GELU(), nn.Linear(24, 8), nn.Softmax(-1)
    ).eval()
    given: dict[str, Any] = {"data": torch.randn(64, 16), "compensate": False}
    small, named = (
        graphprune.deploy(net, 0.2, out=tmp_path / "out.onnx", names=names, **given)
        for names in (False, True)
    )
    assert small.stages[-1].bytes < named.stages[-1].bytes
    assert any("weights alone" in note for note in small.warnings)
    static = graphprune.deploy(net, 0.2, out=tmp_path / "out.onnx", int8="static", **given)
    assert any("static QDQ" in note for note in static.warnings)
    with pytest.raises(GraphPruneError, match="int8 is True, False or one of static"):
        graphprune.deploy(net, 0.2, out=tmp_path / "out.onnx", int8="int4", **given)


def test_what_cannot_be_stored_is_told(file: Path) -> None:
    model = onnx.load(file)
    model.opset_import[0].version = 6
    with pytest.raises(GraphPruneError, match="opset 6 is too old"):
        in_eight_bits(model)
    tiny = _graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.eye(3, dtype=np.float32)},
        (2, 3), (2, 3),
    )  # fmt: skip
    with pytest.raises(GraphPruneError, match="no floating-point weights of 64"):
        in_eight_bits(tiny)
    with pytest.raises(GraphPruneError, match="names is True or False"):
        graphprune.quantise(file, INPUTS, names="short")  # type: ignore[arg-type]
