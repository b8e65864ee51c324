"""Sequences and optionals of known elements are the tensors that they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

import graphprune
from tests.frontends.onnx.exports import graph, masked, normal, run, shapes


def node(kind: str, inputs: list[str], *outputs: str, **attrs: Any) -> NodeProto:
    return helper.make_node(kind, inputs, list(outputs), **attrs)


BLOCKS: dict[str, tuple[list[NodeProto], int]] = {
    "joined": (
        [
            node("SequenceConstruct", ["b", "t"], "s"),
            node("ConcatFromSequence", ["s"], "z", axis=1),
        ],
        64,
    ),
    "stacked": (
        [
            node("SequenceConstruct", ["b", "t"], "s"),
            node("ConcatFromSequence", ["s"], "u", axis=1, new_axis=1),
            node("ReduceSum", ["u", "one"], "z", keepdims=0),
        ],
        32,
    ),
    "inserted": (
        [
            node("SequenceEmpty", [], "s0"),
            node("SequenceInsert", ["s0", "b"], "s1"),
            node("SequenceInsert", ["s1", "t", "zero"], "s2"),
            node("SequenceErase", ["s2"], "s3"),
            node("SequenceAt", ["s3", "zero"], "z"),
        ],
        32,
    ),
    "split": (
        [
            node("SplitToSequence", ["b", "twenty"], "s", axis=-1),
            node("SequenceAt", ["s", "minus"], "p"),
            node("Slice", ["t", "first", "twelve", "axis"], "q"),
            node("Mul", ["p", "q"], "z"),
        ],
        12,
    ),
    "absent or not": (
        [
            node("Optional", ["b"], "o"),
            node("OptionalHasElement", ["o"], "has"),
            node("OptionalGetElement", ["o"], "g"),
            node("Where", ["has", "g", "t"], "z"),
        ],
        32,
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_elements_are_followed(name: str) -> None:
    nodes, width = BLOCKS[name]
    first = [node("MatMul", ["x", "w1"], "a"), node("Relu", ["a"], "b"), node("Tanh", ["a"], "t")]
    numbers = {"one": [1], "zero": 0, "minus": -1, "twenty": 20, "first": [0], "twelve": [12],
               "axis": [1]}  # fmt: skip
    weights = {key: np.array(value) for key, value in numbers.items()}
    weights |= {"w1": normal(16, 32), "w2": normal(width, 4)}
    nodes = [*first, *nodes, node("MatMul", ["z", "w2"], "y")]
    model = graph(nodes, weights, {"x": ["n", 16]}, {"y": ["n", 4]}, opset=18)
    plan = graphprune.plan(model, 0.4, compensate=False)
    small = plan.apply()
    assert plan.report is not None and plan.report.bytes == (model.ByteSize(), small.ByteSize())
    assert shapes(small)["w1"][1] < 32
    assert not any("Sequence" in n.op_type or "Optional" in n.op_type for n in small.graph.node)
    for size in (2, 5):
        x = normal(size, 16)
        (expected,), (found,) = run(masked(model, plan.kept), x=x), run(small, x=x)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_sequences_that_something_else_reads_stay() -> None:
    """Their elements are locked, and the rest shrinks."""
    nodes = [
        node("MatMul", ["x", "w1"], "a"),
        node("Relu", ["a"], "b"),
        node("MatMul", ["b", "w2"], "y"),
        node("SplitToSequence", ["y"], "s", axis=0),
        node("SequenceAt", ["s", "zero"], "first"),
    ]
    weights = {"w1": normal(16, 32), "w2": normal(32, 4), "zero": np.array(0)}
    model = graph(nodes, weights, {"x": ["n", 16]}, {"y": ["n", 4], "first": [1, 4]}, opset=18)
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    model.graph.output.append(helper.make_value_info("s", kind))
    small = graphprune.shrink(model, 0.5, compensate=False)
    assert shapes(small)["w1"] == (16, 16)
    onnx.checker.check_model(small, full_check=True)
    assert len(run(small, x=normal(6, 16))[2]) == 6
