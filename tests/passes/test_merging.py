"""drop_noops, merge_linear, merge_branches: fewer operations, the same results."""

from __future__ import annotations

import pickle
from typing import Any

import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import graphprune
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


class Listed(nn.Module):
    """A block of MobileOne: a list of convolutions, counted, and branches that may be None."""

    def __init__(self, size: int, *, named: bool) -> None:
        super().__init__()
        if named:
            self.one = None  # what timm puts the only convolution in
        self.number, self.skip = 3, nn.BatchNorm2d(size)
        self.many = nn.ModuleList(
            nn.Sequential(nn.Conv2d(size, size, 3, padding=1, groups=2), nn.BatchNorm2d(size))
            for _ in range(self.number)
        )
        self.point = nn.Sequential(
            nn.Conv2d(size, size, 1, groups=2, bias=False), nn.BatchNorm2d(size)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if getattr(self, "one", None) is not None:
            return torch.relu(self.one(x))
        out = 0 if self.skip is None else self.skip(x)
        for number in range(self.number):
            out = out + self.many[number](x)
        return torch.relu(out if self.point is None else out + self.point(x))


BLOCKS = {
    "code": (lambda: Branches(6), False),
    "list": (lambda: Listed(6, named=False), True),
    "name": (lambda: Listed(6, named=True), True),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_compact_merges_branches_and_only_their_block_may_have_other_code(name: str) -> None:
    make, own = BLOCKS[name]
    net = trained(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), make()))
    for dtype, exact in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        net, x = net.to(dtype), IMAGE.to(dtype)
        small = graphprune.compact(net, example_inputs=x)
        assert isinstance(small[2], type(net[2]))
        assert (type(small[2]) is type(net[2])) == own
        assert sum(isinstance(m, nn.Conv2d) for m in small.modules()) == 2
        assert not any(isinstance(m, nn.BatchNorm2d) for m in small.modules())
        for more in (x, torch.cat([x, x.flip(0)]), torch.randn(3, 3, 14, 12).to(dtype)):
            assert gap(net(more), small(more)) < exact
            assert gap(small.train()(more), small.eval()(more)) < exact
        copied = pickle.loads(pickle.dumps(small))
        assert torch.equal(copied(x), small(x))


def test_a_branch_that_code_cannot_do_without_leaves_it_as_it_was() -> None:
    class Both(Listed):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 0 * self.many[2](x)

    net = trained(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), Both(6, named=True)))
    before = list(net[2].state_dict())
    small = graphprune.compact(net, example_inputs=IMAGE)
    assert gap(net(IMAGE), small(IMAGE)) < 1e-6
    assert list(net[2].state_dict()) == before and net[2].one is None


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
