"""What stays in a file makes up for what goes, with data or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper
from torch import nn

import graphprune
from graphprune.core.errors import GraphPruneError
from graphprune.frontends.onnx import execute
from tests.frontends.onnx.exports import Array, export, graph, normal, run, shapes, two_layers

RNG = np.random.default_rng(0)


def correlated(rows: int, width: int, rank: int = 4) -> Array:
    """Rows that a few hidden numbers explain, so that most channels can be told from others."""
    mix = np.random.default_rng(1).standard_normal((rank, width))
    return (RNG.standard_normal((rows, rank)) @ mix).astype(np.float32)


def error(model: ModelProto, small: ModelProto, x: Array) -> float:
    """Relative error of the smaller model's output."""
    (a,), (b,) = run(model, x=x), run(small, x=x)
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def products() -> ModelProto:
    """A product with a bias of its own, in the order that TensorFlow's exports have."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("Add", ["b1", "a"], ["b"]),
        helper.make_node("MatMul", ["b", "w2"], ["c"]),
        helper.make_node("Add", ["c", "b2"], ["y"]),
    ]
    weights = {"w1": normal(8, 32), "b1": normal(32), "w2": normal(32, 3), "b2": normal(3)}
    return graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 3]})


def gemms(transposed: int) -> ModelProto:
    shape = (3, 32) if transposed else (32, 3)
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["y"], transB=transposed),
    ]
    weights = {"w1": normal(8, 32), "b1": normal(32), "w2": normal(*shape), "b2": normal(3)}
    return graph(nodes, weights, {"x": ["n", 8]}, {"y": ["n", 3]})


def weight_on_the_left() -> ModelProto:
    nodes = [
        helper.make_node("MatMul", ["w1", "x"], ["a"]),
        helper.make_node("MatMul", ["w2", "a"], ["y"]),
    ]
    weights = {"w1": normal(32, 8), "w2": normal(3, 32)}
    return graph(nodes, weights, {"x": ["n", 8, 5]}, {"y": ["n", 3, 5]})


@pytest.mark.parametrize(
    "model",
    [products(), gemms(0), gemms(1), weight_on_the_left()],
    ids=["MatMul", "Gemm", "Gemm transposed", "weight on the left"],
)
def test_what_can_be_told_from_the_rest_costs_nothing(model: ModelProto) -> None:
    """Data of rank 4 (or 8 inputs) between linear layers: 16 channels hold all of it."""
    rank = len(model.graph.input[0].type.tensor_type.shape.dim)
    x = correlated(512, 8) if rank == 2 else np.stack([correlated(8, 5) for _ in range(64)])
    plain = graphprune.shrink(model, 0.4, compensate=False)
    plan = graphprune.plan(model, 0.4, data=x, effort="fast")
    assert error(model, plan.apply(), x) < 0.02 < 0.2 < error(model, plain, x)
    assert plan.report is not None and "from data" in plan.report.compensation
    assert plan.report.left == {}


class Net(nn.Module):
    """Convolutions whose outputs a few of them tell, so that half of them can go."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ConvTranspose2d(16, 16, 3, groups=2),
            nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3, groups=2),
        )  # fmt: skip
        self.head = nn.Linear(8, 5)
        with torch.no_grad():
            for conv, dim in ((self.body[0], 0), (self.body[2], 1)):
                few = conv.weight.movedim(dim, -1)[..., :2]  # type: ignore[union-attr, operator]
                mixed = few @ torch.randn(2, conv.weight.shape[dim])  # type: ignore[union-attr]
                conv.weight.copy_(mixed.movedim(-1, dim))  # type: ignore[union-attr, operator]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).amax((2, 3)))


def _images(dynamic: bool) -> ModelProto:
    torch.manual_seed(0)
    net = Net()
    for _ in range(50):  # batch norms learn their statistics
        net.train()(torch.randn(64, 3, 10, 10))
    axes = {"x": {0: "n"}} if dynamic else None
    keep = torch.onnx.TrainingMode.PRESERVE  # batch norms stay
    return export(
        net, (torch.randn(1, 3, 10, 10),), input_names=["x"], dynamic_axes=axes, training=keep
    )


@pytest.mark.parametrize("dynamic", [True, False], ids=["any batch", "batch of one"])
def test_convolutions_and_batch_norms(dynamic: bool) -> None:
    model, x = _images(dynamic), normal(64, 3, 10, 10)
    assert "BatchNormalization" in [node.op_type for node in model.graph.node]

    def off(small: ModelProto) -> float:
        parts = [x] if dynamic else np.split(x, len(x))
        return float(np.mean([error(model, small, part) for part in parts]))

    plain = off(graphprune.shrink(model, 0.4, compensate=False))
    assert off(graphprune.shrink(model, 0.4, data=x, effort="fast")) < 0.25 * plain
    plan = graphprune.plan(model, 0.4)
    assert off(plan.apply()) < 0.25 * plain
    assert plan.report is not None
    assert plan.report.compensation == "statistics from 256 pictures of random shapes"


def test_the_same_seed_gives_the_same_file() -> None:
    first, again = (graphprune.shrink(two_layers(), 0.5, seed=3, effort="fast") for _ in range(2))
    assert first.SerializeToString() == again.SerializeToString()


def test_without_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "onnxruntime", None)
    model, x = products(), correlated(64, 8)
    small = graphprune.shrink(model, 0.4, data={"x": x}, effort="fast")
    monkeypatch.undo()
    assert error(model, small, x) < 0.02


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_weights_keep_their_type(kind: str) -> None:
    elem = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)) if kind != "bfloat16" else 16
    dtype = helper.tensor_dtype_to_np_dtype(elem)
    base = two_layers()
    weights = {t.name: onnx.numpy_helper.to_array(t).astype(dtype) for t in base.graph.initializer}
    model = graph(list(base.graph.node), weights, {"x": ["n", 8]}, {"y": ["n", 3]}, kind=elem)
    plan = graphprune.plan(model, 0.5, data=normal(64, 8), effort="fast")
    assert {t.data_type for t in plan.apply().graph.initializer} == {elem}
    assert plan.report is not None and plan.report.left == {}
    graphprune.shrink(model, 0.5, data={"x": normal(64, 8).astype(dtype)}, effort="fast")
    graphprune.factor(model, 0.1, keep=())  # held against the whole, which is rounded otherwise


def test_tokens_come_from_the_whole_table_and_masks_hide_nothing() -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["e"]),
        helper.make_node("Cast", ["mask"], ["m"], to=1),
        helper.make_node("Unsqueeze", ["m", "last"], ["m3"]),
        helper.make_node("Mul", ["e", "m3"], ["masked"]),
        helper.make_node("MatMul", ["masked", "w1"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["y"]),
    ]
    weights = {
        "table": normal(50, 8), "w1": normal(8, 24), "w2": normal(24, 3), "last": np.array([-1]),
    }  # fmt: skip
    model = graph(
        nodes, weights, {"ids": ["n", "t"], "mask": ["n", "t"]}, {"y": ["n", "t", 3]}, kind=7
    )
    model.graph.output[0].type.tensor_type.elem_type = 1
    plan = graphprune.plan(model, 0.3)
    samples = plan.live().statistics().samples()
    assert samples is not None and samples.origin == "256 random token inputs"
    ids, masks = (torch.cat(parts) for parts in zip(*samples.chunks, strict=True))
    assert int(ids.max()) == 49
    assert bool((masks == 1).all())


def test_models_without_a_dimension_of_samples() -> None:
    """A signal and a state; whole inputs, one after the other, are the samples."""
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "w1"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["y"]),
    ]
    weights = {"w1": normal(12, 24), "w2": normal(24, 3), "flat": np.array([2, 12])}
    model = graph(nodes, weights, {"x": [6, 4]}, {"y": [2, 3]})
    plan = graphprune.plan(model, 0.3, data=[normal(6, 4) for _ in range(20)])
    plan.apply()
    assert plan.report is not None
    assert plan.report.compensation == "statistics from 18 inputs from data"
    assert plan.report.agreement is not None and plan.report.agreement.real  # of the other two


def test_a_plan_takes_other_data_and_other_weights(tmp_path: Path) -> None:
    model, x = products(), correlated(128, 8)
    plan = graphprune.plan(model, 0.4, effort="fast")
    assert error(model, plan.apply(data=x), x) < 0.02
    plan.save(tmp_path / "plan.json")
    again = graphprune.load_plan(tmp_path / "plan.json").apply(model, data=[{"x": x}])
    assert error(model, again, x) < 0.02


def test_activation_criteria_take_data() -> None:
    model = two_layers()
    small = graphprune.shrink(model, 0.5, importance="wanda", data=normal(64, 8), compensate=False)
    assert len(small.graph.node) == len(model.graph.node)
    with pytest.raises(GraphPruneError, match=r"needs a torch\.nn\.Module"):
        graphprune.shrink(model, 0.5, importance="taylor", data=(normal(64, 8), np.zeros(64)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("x.npy", r"no file x\.npy"),
        ([], "not a single batch"),
        ({"x": normal(4, 8), "z": normal(4, 2), "label": normal(4)}, None),
        ([(normal(4, 8), normal(4, 1), normal(4, 1))], "holds 3 arrays"),
        (normal(4, 9), r"shape \(4, 9\) for input x, which takes \(batch, 8\)"),
    ],
)
def test_data_that_does_not_fit(data: Any, message: str | None) -> None:
    if message is None:  # arrays that the model does not name are left aside
        graphprune.shrink(two_layers(), 0.5, data=data, effort="fast")
        return
    with pytest.raises(GraphPruneError, match=message):
        graphprune.shrink(two_layers(), 0.5, data=data)


@pytest.mark.parametrize(("given", "result"), [(512, 63), ("samples", "frames")])
def test_signals_are_not_made_up(given: int | str, result: int | str) -> None:
    """Noise says nothing about sound: without data nothing is solved for."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["h"], strides=[8]),
        helper.make_node("Conv", ["h", "w2"], ["y"]),
    ]
    weights = {"w1": normal(16, 1, 16), "w2": normal(1, 16, 1), "b2": normal(1)}
    nodes[1].input.append("b2")
    model = graph(nodes, weights, {"x": ["n", 1, given]}, {"y": ["n", 1, result]})
    plan = graphprune.plan(model, 0.4)
    plan.apply()
    assert plan.report is not None
    assert plan.report.compensation == "none: noise does not stand in for signals: pass data"
    brought = graphprune.plan(model, 0.4, data=normal(64, 1, 512), effort="fast")
    brought.apply()
    assert brought.report is not None and brought.report.left == {}
    insisted = graphprune.plan(model, 0.4, compensate=True)
    assert insisted.report is not None and "noise" in insisted.report.compensation


@pytest.mark.parametrize("mask", [False, True])
def test_deformable_convolutions_make_up_for_what_goes(mask: bool) -> None:
    w1 = np.einsum("oj,jikl->oikl", normal(16, 4), normal(4, 3, 3, 3)) / 5
    weights = {"w1": w1, "wo": normal(18, 16, 3, 3) / 60, "wm": normal(9, 16, 3, 3) / 20,
               "wd": normal(8, 16, 3, 3) / 12, "b": normal(8)}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["h"], pads=[1] * 4),
        helper.make_node("Conv", ["h", "wo"], ["at"], pads=[1] * 4),
        helper.make_node("Conv", ["h", "wm"], ["m0"], pads=[1] * 4),
        helper.make_node("Sigmoid", ["m0"], ["m"]),
        helper.make_node(
            "DeformConv", ["h", "wd", "at", "b", *(["m"] if mask else [])], ["y"], pads=[1] * 4
        ),
    ]
    model = graph(nodes, weights, {"x": ["n", 3, 9, 9]}, {"y": ["n", 8, 9, 9]}, opset=19)
    data, unseen = normal(33, 3, 9, 9), normal(17, 3, 9, 9)
    plan = graphprune.plan(model, 0.5, data=data, effort="fast")
    assert plan.report is not None
    small = plan.apply()
    assert not plan.report.left and shapes(small)["w1"][0] < 16
    assert error(model, small, unseen) < 0.1  # 4 of 16 channels tell the others


def test_einsums_that_read_through_several_heads_make_up_for_what_goes() -> None:
    w1 = np.einsum("ij,jo->io", normal(8, 4), normal(4, 32))
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Einsum", ["h", "wq"], ["y"], equation="btd,dhk->bthk"),
    ]
    weights = {"w1": w1, "wq": normal(32, 2, 3)}
    model = graph(nodes, weights, {"x": ["n", 5, 8]}, {"y": ["n", 5, 2, 3]})
    plan = graphprune.plan(model, 0.5, data=normal(64, 5, 8), effort="fast")
    assert plan.report is not None and not plan.report.left
    assert error(model, plan.apply(), normal(17, 5, 8)) < 0.05
