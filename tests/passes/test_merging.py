"""drop_noops, merge_linear, merge_branches: fewer operations, the same results."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from graphprune.frontends.onnx.whole import run_model
from graphprune.pipelines import FOLDING
from tests.passes.test_fold_norms import IMAGE, ROWS, exported, gap, trained, worked


class Branches(nn.Module):
    """A block of RepVGG: 3 x 3, 1 x 1 and identity, each with a norm."""

    def __init__(self, size: int, groups: int = 1) -> None:
        super().__init__()
        wide = nn.Conv2d(size, size, 3, padding=1, groups=groups, bias=False)
        self.wide = nn.Sequential(wide, nn.BatchNorm2d(size))
        self.narrow = nn.Sequential(
            nn.Conv2d(size, size, 1, groups=groups, bias=False), nn.BatchNorm2d(size)
        )
        self.norm, self.act = nn.BatchNorm2d(size), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.wide(x) + self.narrow(x) + self.norm(x))


class Strided(nn.Module):
    """Branches that meet different places: they cannot be one."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 4, 3, padding=2, dilation=2)
        self.narrow = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wide(x) + self.narrow(x)


MERGED = {
    "branches": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), Branches(6)), 4),
    "branches in groups": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), Branches(6, 3)), 4),
    "1 x 1 in front": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 3)), 1),
    "1 x 1 behind": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Dropout(), nn.Conv2d(8, 4, 1)),
        1,
    ),
    "too narrow between": (lambda: nn.Sequential(nn.Conv2d(3, 1, 3), nn.Conv2d(1, 9, 1)), 2),
    "padded": (lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 3, padding=1)), 2),
    "dilated": (Strided, 3),
}


@pytest.mark.parametrize("kind", ["module", "file"])
@pytest.mark.parametrize("name", MERGED)
def test_what_can_be_one_operation_is(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graphprune.frontends.onnx.tidy.onnxslim", None)  # what is done without it
    make, wanted = MERGED[name]
    net = trained(make())
    more = torch.cat([IMAGE, IMAGE.flip(0) * 2, IMAGE[:1]])
    if kind == "file":
        file = exported(net, IMAGE)
        small = worked(file, passes=FOLDING).program.model
        onnx.checker.check_model(small, full_check=True)
        assert len(small.graph.node) == wanted
        for x in (IMAGE, more):
            found, expected = (run_model(m, {"x": x.numpy()})[0] for m in (small, file))
            assert gap(expected, found) < 1e-5
        return
    net = net.double()
    before = sum(p.numel() for p in net.parameters())
    program = worked(net, IMAGE.double(), FOLDING).program
    assert len(program.graph.ops) == wanted
    assert sum(p.numel() for p in program.model.parameters()) <= before
    larger = torch.randn(3, 3, 14, 12, dtype=torch.float64)
    for x in (IMAGE.double(), more.double(), larger):
        assert gap(net(x), program.model(x)) < 1e-12


def test_the_class_of_a_merged_block_is_kept() -> None:
    net = trained(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), Branches(6)))
    block = worked(net, IMAGE, FOLDING).program.model[2]
    assert isinstance(block, Branches)
    assert isinstance(block.norm, nn.Identity)


def test_linear_layers_with_a_dropout_between_are_one() -> None:
    net = trained(nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3, bias=False)))
    small = worked(net.double(), ROWS.double(), FOLDING).program.model
    assert [type(m) for m in small] == [nn.Identity, nn.Identity, nn.Linear]
    assert gap(net(ROWS.double()), small(ROWS.double())) < 1e-12


def test_the_gain_of_a_norm_goes_to_all_who_read_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.q, self.v = nn.LayerNorm(6), nn.Linear(6, 4), nn.Linear(6, 4)
            nn.init.normal_(self.norm.weight, 1, 0.3)
            nn.init.normal_(self.norm.bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.norm(x)
            return self.q(y) * self.v(y)

    net = Net().eval().double()
    small = worked(net, ROWS.double(), "fold_norms").program.model
    assert small.norm.weight is None
    assert gap(net(ROWS.double()), small(ROWS.double())) < 1e-12


def _file(*nodes: Any, shape: Any = ("n", 4, 4)) -> onnx.ModelProto:
    """A file of some nodes between x and y, and a weight w."""
    weight = numpy_helper.from_array(torch.randn(4, 4).numpy(), "w")
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n in "xy"]
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize("tool", [True, False])
def test_moves_that_undo_one_another_and_casts_go(
    tool: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tool:
        pytest.importorskip("onnxslim")
    else:
        monkeypatch.setattr("graphprune.frontends.onnx.tidy.onnxslim", None)
    make = helper.make_node
    file = _file(
        make("Transpose", ["x"], ["a"], perm=[0, 2, 1]),
        make("Transpose", ["a"], ["b"], perm=[0, 2, 1]),
        make("MatMul", ["b", "w"], ["c"]),
        make("Cast", ["c"], ["d"], to=onnx.TensorProto.FLOAT),
        make("Dropout", ["d"], ["e"]),
        make("Relu", ["e"], ["f"]),
        make("Transpose", ["f"], ["g"], perm=[0, 2, 1]),
        make("Identity", ["g"], ["y"]),
    )
    small = worked(file, passes="drop_noops").program.model
    assert [n.op_type for n in small.graph.node] == ["MatMul", "Relu", "Transpose"]
    x = {"x": torch.randn(3, 4, 4).numpy()}
    assert gap(run_model(file, x)[0], run_model(small, x)[0]) < 1e-6
