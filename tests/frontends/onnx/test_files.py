"""What goes in, what comes out, and what stays as it was."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import ModelProto, TensorProto, helper

import graphprune
from graphprune.core.errors import BudgetError, GraphPruneError
from tests.frontends.onnx.exports import graph, normal, run, shapes, two_layers


def _kept(model: ModelProto, weight: str = "w1", dim: int = 1) -> Any:
    """The plan's choice for a weight, and the smaller model."""
    plan = graphprune.plan(model, 0.5, compensate=False)
    return plan.kept[weight][dim], plan.apply()


def test_a_model_gives_a_model() -> None:
    model = two_layers()
    kept, small = _kept(model)
    assert isinstance(small, ModelProto)
    assert shapes(small) == {"w1": (8, len(kept)), "b1": (len(kept),), "w2": (len(kept), 3)}
    w1, b1, w2 = (onnx.numpy_helper.to_array(t) for t in model.graph.initializer)
    x = normal(5, 8)
    expected = np.maximum(x @ w1[:, kept] + b1[kept], 0) @ w2[kept]
    np.testing.assert_allclose(run(small, x=x)[0], expected, rtol=1e-5, atol=1e-5)


def test_a_path_gives_a_model_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(two_layers(), path)
    before = path.read_bytes()
    assert shapes(graphprune.shrink(path, 0.5, compensate=False)) == shapes(
        graphprune.shrink(str(path), 0.5, compensate=False)
    )
    assert path.read_bytes() == before


def test_a_surgeon_graph_gives_a_surgeon_graph() -> None:
    small = graphprune.shrink(gs.import_onnx(two_layers()), 0.5, compensate=False)
    assert isinstance(small, gs.Graph)
    assert small.tensors()["w1"].shape == [8, 8]


def test_a_plan_travels(tmp_path: Path) -> None:
    plan = graphprune.plan(two_layers(), 0.5, compensate=False)
    plan.save(tmp_path / "plan.json")
    again = graphprune.load_plan(tmp_path / "plan.json").apply(two_layers())
    assert again.SerializeToString() == plan.apply().SerializeToString()
    with pytest.raises(GraphPruneError, match="another model"):
        graphprune.load_plan(tmp_path / "plan.json").apply(two_layers(hidden=12))


def test_ratio_zero_changes_nothing() -> None:
    model = two_layers()
    assert (
        graphprune.shrink(model, 0.0, compensate=False).SerializeToString()
        == model.SerializeToString()
    )


def test_names_metadata_and_dynamic_dimensions_stay() -> None:
    model = two_layers()
    model.doc_string, model.producer_name = "what it is for", "a test"
    model.metadata_props.add(key="labels", value="a,b,c")
    model.graph.node[0].metadata_props.add(key="scope", value="encoder")
    model.graph.value_info.append(
        helper.make_tensor_value_info("h", TensorProto.FLOAT, ["batch", 16])
    )
    small = graphprune.shrink(model, 0.5, compensate=False)
    assert (small.doc_string, small.producer_name) == ("what it is for", "a test")
    first, *ours = small.metadata_props
    assert (first.key, first.value) == ("labels", "a,b,c")
    assert all(entry.key.startswith("graphprune.") for entry in ours)
    assert small.graph.node[0].metadata_props[0].value == "encoder"
    assert [n.name for n in small.graph.node] == ["first", "bias", "relu", "second"]
    (info,) = small.graph.value_info
    dims = info.type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("batch", 8)
    for batch in (1, 5):
        assert run(small, x=normal(batch, 8))[0].shape == (batch, 3)


@pytest.mark.parametrize("opset", [9, 11, 13, 15, 17, 19, 21, 23])
def test_opsets(opset: int) -> None:
    small = graphprune.shrink(two_layers(opset=opset), 0.5, compensate=False)
    assert small.opset_import[0].version == opset
    assert shapes(small)["w1"] == (8, 8)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_precisions(kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    nodes = list(two_layers().graph.node)
    weights = {"w1": normal(8, 16), "b1": normal(16), "w2": normal(16, 3)}
    cast = {name: array.astype(dtype) for name, array in weights.items()}
    model = graph(nodes, cast, {"x": ["batch", 8]}, {"y": ["batch", 3]}, kind=kind)
    small = graphprune.shrink(model, 0.5, effort="fast")
    assert {tensor.data_type for tensor in small.graph.initializer} == {kind}
    assert shapes(small)["w1"] == (8, 8)


def test_weights_as_constant_nodes() -> None:
    model = two_layers()
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    del model.graph.initializer[:]
    constants = [helper.make_node("Constant", [], [n], value=t) for n, t in weights.items()]
    nodes = [*constants, *model.graph.node]
    whole = graph(nodes, {}, {"x": ["batch", 8]}, {"y": ["batch", 3]})
    small = graphprune.shrink(whole, 0.5, compensate=False)
    held = {n.output[0]: tuple(n.attribute[0].t.dims) for n in small.graph.node[:3]}
    assert held == {"w1": (8, 8), "b1": (8,), "w2": (8, 3)}
    assert not small.graph.initializer


def test_weights_listed_as_inputs() -> None:
    model = two_layers(opset=9)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    small = graphprune.shrink(model, 0.5, compensate=False)
    sizes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in small.graph.input}
    assert sizes["w1"] == [8, 8]
    assert sizes["b1"] == [8]


def _three_layers() -> ModelProto:
    """Two widths of 16; the biases are one initializer, as exporters merge equal values."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "zeros"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Identity", ["zeros"], ["alias"]),
        helper.make_node("Gemm", ["b", "w2", "alias"], ["c"], name="second"),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "w3"], ["y"], name="third"),
    ]
    weights = {"w1": normal(8, 16), "zeros": np.zeros(16, np.float32), "w2": normal(16, 16)}
    return graph(nodes, {**weights, "w3": normal(16, 3)}, {"x": ["n", 8]}, {"y": ["n", 3]})


def test_merged_constants_do_not_couple() -> None:
    deps = graphprune.analyze(_three_layers())
    assert [group.size for group in deps.groups] == [16, 16]
    small = graphprune.plan(_three_layers(), 0.45, ratios={"w1": 0.5}, compensate=False).apply()
    found = shapes(small)
    assert found["w1"] == (8, 8)
    assert found["w2"][0] == 8 != found["w2"][1]
    assert found["w3"][0] == found["w2"][1]


def test_a_matrix_used_twice_stays_one() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w1"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "square"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "square"], ["e"]),
        helper.make_node("Gemm", ["e", "w2"], ["y"]),
    ]
    weights = {"w1": normal(8, 16), "square": normal(16, 16), "w2": normal(16, 3)}
    small = graphprune.shrink(
        graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 3]}), 0.5, compensate=False
    )
    assert set(shapes(small)) == {"w1", "square", "w2"}
    assert len({*shapes(small)["square"]}) == 1


def test_external_data(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    onnx.save(
        two_layers(hidden=256),
        tmp_path / "in" / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=100,
    )
    plan = graphprune.plan(tmp_path / "in" / "model.onnx", 0.5, compensate=False)
    plan.write(tmp_path / "small.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "small.onnx", "small.onnx.data"]
    x = normal(2, 8)
    expected = run(graphprune.shrink(two_layers(hidden=256), 0.5, compensate=False), x=x)[0]
    np.testing.assert_array_equal(run(str(tmp_path / "small.onnx"), x=x)[0], expected)
    np.testing.assert_array_equal(run(plan.apply(), x=x)[0], expected)


def test_small_data_lies_close(tmp_path: Path) -> None:
    """Only what fills many pages starts at the next one: the file is no larger than is told."""
    widths = [8, *[24] * 20, 3]
    nodes = [helper.make_node("MatMul", [f"x{at}", f"w{at}"], [f"x{at + 1}"]) for at in range(21)]
    weights = {f"w{at}": normal(*pair) for at, pair in enumerate(pairwise(widths))}
    model = graph(nodes, weights, {"x0": ["n", 8]}, {"x21": ["n", 3]})
    source = tmp_path / "large.onnx"
    onnx.save(model, source, save_as_external_data=True, location="large.bin", size_threshold=0)
    plan = graphprune.plan(source, 0.2, compensate=False)
    plan.write(tmp_path / "small.onnx")
    assert plan.report is not None and plan.report.bytes is not None
    written = sum(path.stat().st_size for path in tmp_path.glob("small.onnx*"))
    assert written < 1.1 * plan.report.bytes[1]
    x = normal(3, 8)
    wanted = run(plan.apply(), x0=x)[0]
    np.testing.assert_allclose(run(str(tmp_path / "small.onnx"), x0=x)[0], wanted, rtol=1e-5)


def test_local_functions_are_inlined() -> None:
    body = [
        helper.make_node("MatMul", ["a", "b"], ["p"]),
        helper.make_node("Relu", ["p"], ["q"]),
    ]
    imports = [helper.make_opsetid("", 20)]
    function = helper.make_function("mine", "dense", ["a", "b"], ["q"], body, imports)
    nodes = [
        helper.make_node("dense", ["x", "w1"], ["h"], domain="mine"),
        helper.make_node("dense", ["h", "w2"], ["y"], domain="mine"),
    ]
    weights = {"w1": normal(8, 16), "w2": normal(16, 3)}
    model = graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 3]})
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert shapes(graphprune.shrink(model, 0.5, compensate=False)) == {"w1": (8, 8), "w2": (8, 3)}


def test_an_unknown_operation_locks_and_is_named() -> None:
    model = two_layers()
    model.graph.node[2].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    deps = graphprune.analyze(model)
    assert "com.example::Relu (its results are of unknown shape)" in deps.unknown
    with pytest.raises(BudgetError, match=r"com\.example::Relu"):
        graphprune.shrink(model, 0.5, compensate=False)


def test_what_a_subgraph_captures_is_locked() -> None:
    branch = [
        helper.make_graph(
            [helper.make_node("MatMul", ["r", name], ["z"])],
            name,
            [],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        )
        for name in ("w2", "w3")
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="free"),
        helper.make_node("MatMul", ["a", "w1"], ["r"], name="captured"),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], name="choice", then_branch=branch[0], else_branch=branch[1]
        ),
    ]
    weights = {
        "w0": normal(8, 16),
        "w1": normal(16, 12),
        "w2": normal(12, 3),
        "w3": normal(12, 3) + 1,
        "zero": np.zeros((), np.float32),
    }
    model = graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 3]})
    small = graphprune.shrink(model, 0.4, compensate=False)
    assert shapes(small)["w1"][1] == 12
    assert shapes(small)["w0"][1] < 16
    assert any("If at choice" in lock.reason for lock in graphprune.analyze(model).locks)


def test_layers_are_kept_by_their_nodes_names() -> None:
    plan = graphprune.plan(_three_layers(), 0.2, keep=["first"], compensate=False)
    assert "w1" not in plan.kept
    assert shapes(plan.apply())["w3"][0] < 16


def test_functions_that_no_removal_touches_stay() -> None:
    """Of two functions one holds a reshape to a width that shrinks; the other fits any width."""
    imports = [helper.make_opsetid("", 17)]
    gate = helper.make_function(
        "mine", "gate", ["a"], ["q"],
        [helper.make_node("Sigmoid", ["a"], ["s"]), helper.make_node("Mul", ["a", "s"], ["q"])],
        imports,
    )  # fmt: skip
    wide = helper.make_function(
        "mine", "wide", ["a"], ["q"],
        [
            helper.make_node("Constant", [], ["shape"], value_ints=[-1, 16]),
            helper.make_node("Reshape", ["a", "shape"], ["q"]),
        ],
        imports,
    )  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("gate", ["h"], ["g"], name="call", domain="mine"),
        helper.make_node("wide", ["g"], ["r"], domain="mine"),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    weights = {"w1": normal(8, 16), "w2": normal(16, 3)}
    model = graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 3]}, opset=17)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.extend([gate, wide])
    small = graphprune.shrink(model, 0.5, compensate=False)
    assert shapes(small)["w1"] == (8, 8)
    assert [f.name for f in small.functions] == ["gate"]
    kinds = [node.op_type for node in small.graph.node]
    assert "gate" in kinds and "Sigmoid" not in kinds and "wide" not in kinds
    assert run(small, x=normal(5, 8))[0].shape == (5, 3)
    onnx.checker.check_model(small, full_check=True)
