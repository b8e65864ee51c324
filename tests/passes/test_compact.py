"""compact: what changes no output goes, and nothing else."""

from __future__ import annotations

import copy
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn
from torch.nn.utils import parametrize, prune

import graphprune
from graphprune import cli
from graphprune.compacting import compacted

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


def conv(inside: int, outside: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, padding=size // 2, **{"bias": False, **options})


class Residual(nn.Module):
    """A stream that two branches write, a grouped and a depthwise convolution, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.grouped = conv(3, 8), conv(8, 8, groups=2)
        self.depth, self.point = conv(8, 8, groups=8), conv(8, 8, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = nn.functional.hardswish(self.grouped(x))
        x = x + self.point(torch.tanh(self.depth(x)))
        return self.head(torch.cat([x, y], 1).mean((2, 3)))


def check(net: nn.Module, x: torch.Tensor, **options: Any) -> Any:
    """A compacted network, its outputs held against the original's; and the report."""
    before = copy.deepcopy(net.state_dict())
    plan = compacted(net, {"example_inputs": x, **options})
    small = plan.apply()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert type(small) is type(net)
    limit = 1e-12 if x.dtype is torch.float64 else 1e-5
    for given in (x, torch.cat([x, x.flip(0)])):
        gap = (small.eval()(given) - net.eval()(given)).abs().max() / net(given).abs().max()
        assert gap <= limit
    assert plan.report.gap <= limit
    return small, plan.report


def zero(weight: torch.Tensor, rows: Any, dim: int = 0) -> None:
    weight.data.index_fill_(dim, torch.as_tensor(rows), 0.0)


# --- masks ----------------------------------------------------------------------------------------


class Mask(nn.Module):
    """A parametrization that multiplies by numbers that stand, as NNI and NNCF have them."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask


def _custom(net: Any) -> None:
    mask = torch.ones_like(net[0].weight)
    mask[[1, 2]] = 0
    prune.custom_from_mask(net[0], "weight", mask)
    prune.custom_from_mask(net[0], "bias", mask[:, 0])


def _rows(net: Any) -> None:
    prune.ln_structured(net[0], "weight", 0.25, 2, dim=0)
    prune.custom_from_mask(net[0], "bias", net[0].weight_mask[:, 0])


def _columns(net: Any) -> None:
    prune.ln_structured(net[2], "weight", 0.25, 1, dim=1)


def _twice(net: Any) -> None:
    _custom(net)
    prune.random_unstructured(net[0], "weight", 0.2)


def _parametrized(net: Any) -> None:
    mask = torch.ones(8, 1)
    mask[[3, 6]] = 0
    parametrize.register_parametrization(net[0], "weight", Mask(mask))
    parametrize.register_parametrization(net[0], "bias", Mask(mask[:, 0]))


class Wrapper(nn.Module):
    """A module around another, as pruners of NNI have it: masks are multiplied in before it runs.

    Args:
        module: The other.
        mask: The mask of its weight.
        within: Whether the weight stays in the other, and is overwritten.
    """

    def __init__(self, module: nn.Module, mask: torch.Tensor, within: bool) -> None:
        super().__init__()
        self.module, self.within = module, within
        for name, held in (("weight", mask), ("bias", mask[:, 0].clone())):
            self.register_buffer(f"{name}_mask", held)
            if not within:
                inner = module._parameters.pop(name)
                self.register_parameter(name, inner)
                module.register_buffer(name, inner.data)

    def forward(self, *inputs: torch.Tensor) -> Any:
        for name in ("weight", "bias"):
            mask = getattr(self, f"{name}_mask")
            if self.within:
                held = getattr(self.module, name)
                held.data = held.data.mul_(mask)
            else:
                setattr(self.module, name, torch.mul(getattr(self, name), mask))
        return self.module(*inputs)


def _wrapped(within: bool) -> Any:
    def mask(net: Any) -> None:
        kept = torch.ones_like(net[0].weight)
        kept[[1, 2]] = 0
        if within:  # what the wrapper does at its first run
            zero(net[0].weight, [1, 2])
            zero(net[0].bias, [1, 2])
        net[0] = Wrapper(net[0], kept, within)

    return mask


def _zeroed(net: Any) -> None:
    zero(net[0].weight, [4, 5])
    zero(net[0].bias, [4, 5])


MASKS = [
    _custom, _rows, _columns, _twice, _parametrized, _zeroed, _wrapped(True), _wrapped(False),
]  # fmt: skip


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("used", [False, True])
def test_masks_become_removals(mask: Any, used: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    mask(net)
    if used:  # hooks leave what they computed on the module, with its gradient
        net(ROWS).sum().backward()
    small, report = check(net, ROWS)
    assert small[0].weight.shape == (6, 6) and small[2].weight.shape == (4, 6)
    assert not small[0]._forward_pre_hooks and "parametrizations" not in small[0]._modules
    assert sorted(small.state_dict()) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert sum(report.groups[0].reasons.values()) == 2


def test_what_cannot_go_stays_as_zeros_and_is_counted() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    pruned = [(net[0], "weight"), (net[2], "weight")]
    prune.global_unstructured(pruned, prune.L1Unstructured, amount=0.5)
    small, report = check(net, ROWS)
    assert type(small[0]) is nn.Linear and "weight" in small[0]._parameters
    left = sum(number for number, _ in report.zeros.values())
    assert left == sum(int((p == 0).sum()) for p in small.parameters() if p.dim() == 2) > 0
    assert "zeros left" in str(report)


def test_a_parametrization_that_is_no_mask_stays() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    torch.nn.utils.parametrizations.weight_norm(net[0])
    zero(net[2].weight, [1], 1)
    small, _ = check(net, ROWS)
    assert "parametrizations" in small[0]._modules and small[0].weight.shape == (7, 6)


# --- the whole group ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_channel_of_a_residual_stream_goes_where_all_its_writers_are_zero(
    dtype: torch.dtype,
) -> None:
    net = Residual().to(dtype).eval()
    zero(net.stem.weight, [1, 2, 5])
    zero(net.point.weight, [1, 5])  # the branch still writes channel 2
    zero(net.grouped.weight, [0, 4])
    small, report = check(net, IMAGE.to(dtype))
    assert small.stem.out_channels == small.point.out_channels == small.depth.groups == 6
    assert small.grouped.out_channels == 6 and small.head.in_features == 12
    assert report.verification.exact


def test_nothing_to_remove_gives_a_copy_and_says_so() -> None:
    net = Residual().eval()
    small, report = check(net, IMAGE)
    assert small is not net and report.params[0] == report.params[1]
    assert any(row.name == "dead" and row.note == "nothing is free" for row in report.passes)


class Dead(nn.Module):
    """A residual block whose inner layer is zero throughout."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.a, self.b = conv(3, 8), conv(8, 6), conv(6, 8, bias=bias)
        self.last, self.head = conv(8, 8), nn.Linear(8, 5)
        zero(self.a.weight, range(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.b(torch.relu(self.a(x)))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


@pytest.mark.parametrize("bias", [False, True])
def test_a_group_that_is_all_zero_keeps_an_index_in_code_and_none_in_a_file(bias: bool) -> None:
    net = Dead(bias).eval()
    small, report = check(net, IMAGE)
    assert small.a.out_channels == 1
    assert "one stays" in report.left["a.weight[0]"]
    plan = compacted(exported(net, IMAGE), {})
    nodes = [node.op_type for node in plan.apply().graph.node]
    assert nodes.count("Conv") == 2 and nodes.count("Add") == int(bias)
    assert plan.report.gap < 1e-5


def test_what_only_one_branch_leaves_at_zero_stays_with_the_reason() -> None:
    net = Residual().eval()
    zero(net.stem.weight, [1, 2, 5, 6, 3])
    zero(net.point.weight, [1, 5])  # the branch still writes channels 2 and 6, and 3
    small, report = check(net, IMAGE)
    assert small.stem.out_channels == 6
    (first, second) = (report.left[f"stem.weight[0] axis {n} of 2"] for n in (1, 2))
    assert "1 of its indices, masked or constant in places, get other numbers at add" in second
    assert "1 of its indices" in second and "stand for several channels" in second
    assert "stand for several channels" in first


class Joined(nn.Module):
    """A skip behind a concatenation, convolutions in groups, an activation of one's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.slope = conv(3, 4), conv(3, 6), nn.Parameter(torch.rand(()))
        self.mix, self.depth = conv(10, 8, groups=2), conv(8, 8, groups=8)
        self.point, self.head = conv(8, 8, 1), nn.Linear(8, 5)

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tanh(nn.functional.softplus(self.slope * x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.mix(torch.cat([self.a(x), self.act(self.b(x))], 1)))
        return self.head((x + self.point(self.act(self.depth(x)))).mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_skips_concatenations_groups_and_own_activations(dtype: torch.dtype) -> None:
    net = Joined().to(dtype)
    for layer in (net.mix, net.point):
        prune.custom_from_mask(layer, "weight", _rows_of(layer.weight, [1, 5]))
    prune.custom_from_mask(net.b, "weight", _rows_of(net.b.weight, [2]))
    prune.custom_from_mask(net.a, "weight", _rows_of(net.a.weight, [1]))
    small, report = check(net.eval(), IMAGE.to(dtype))
    assert small.mix.out_channels == small.point.out_channels == 6
    assert small.depth.groups == 6
    assert report.training_gap <= 1e-12


def _rows_of(weight: torch.Tensor, rows: Any) -> torch.Tensor:
    mask = torch.ones_like(weight)
    zero(mask, rows)
    return mask


class Gated(nn.Module):
    """Halves of one layer, multiplied, and one of them beside the product."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.head = conv(3, 12), nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, v = torch.relu(self.a(x)).chunk(2, 1)
        return self.head(torch.cat([u * v, v], 1).mean((2, 3)))


@pytest.mark.parametrize(("rows", "width"), [([1, 2], 12), ([7, 8], 8), ([1, 7, 8], 8)])
def test_what_a_concatenation_holds_twice_goes_where_both_are_zero(rows: Any, width: int) -> None:
    net = Gated().double().eval()
    zero(net.a.weight, rows)
    assert check(net, IMAGE.double())[0].a.out_channels == width


@pytest.mark.parametrize(("size", "groups"), [(2, 1), (2, 2), (3, 1), (1, 2)])
def test_constants_that_a_transposed_convolution_spreads(size: int, groups: int) -> None:
    """Of a kernel as wide as its stride each result is read through one tap."""
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(3, 8, bias=True), nn.ReLU(),
        nn.ConvTranspose2d(8, 6, size, size - size // 3, groups=groups), nn.ReLU(), conv(6, 4),
    ).double().eval()  # fmt: skip
    zero(net[0].weight, [1, 5] if groups == 2 else [1])  # two in a group are multiples
    net[0].bias.data.abs_()
    small, _ = check(net, IMAGE.double())
    assert small[0].out_channels == (6 if size == 1 else 8)
    plan = compacted(exported(net.float(), IMAGE), {})
    plan.apply()
    assert plan.report.gap < 1e-5


def test_what_only_fed_what_goes_is_found_as_well() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    zero(net[4].weight, [2], 1)
    net[2].weight.data[[0, 1, 3, 4, 5, 6, 7], 5] = 0  # channel 5 is read by output 2 alone
    small, report = check(net.double(), ROWS.double())
    assert small[0].out_features == small[2].out_features == 7
    assert [row.reasons for row in report.groups] == [{"unread": 1}, {"unread": 1}]


def test_kept_layers_stay() -> None:
    net = Residual().eval()
    zero(net.grouped.weight, [0, 4])
    small, _ = check(net, IMAGE, keep=["grouped"])
    assert small.grouped.out_channels == 8


# --- files ----------------------------------------------------------------------------------------


def exported(net: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(), (x,), file, dynamo=False, do_constant_folding=False, input_names=["x"],
            dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def test_files_lose_the_same_channels() -> None:
    net = Residual().eval()
    zero(net.stem.weight, [1, 2, 5])
    zero(net.point.weight, [1, 5])
    zero(net.grouped.weight, [0, 4])
    small = graphprune.compact(exported(net, IMAGE))
    shapes = {t.name: tuple(t.dims) for t in small.graph.initializer}
    assert shapes["stem.weight"][0] == 6 and shapes["grouped.weight"][0] == 6


def test_masks_that_a_file_multiplies_by() -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    _custom(net)
    model = exported(net, ROWS)
    plan = compacted(model, {})
    arrays = {t.name: numpy_helper.to_array(t) for t in plan.apply().graph.initializer}
    assert max(a.shape for a in arrays.values() if a.ndim == 2) <= (6, 6)
    assert plan.report.gap < 1e-5


class Tied(nn.Module):
    """Words in and words out by one table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.a, self.b = nn.Embedding(40, 8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.words(x)
        return F.linear(x + self.b(F.relu(self.a(x))), self.words.weight)


def test_tied_tables_of_files_stay_one() -> None:
    net = Tied()
    zero(net.b.weight.T, [1, 2, 5])
    plan = compacted(exported(net, torch.arange(6).view(2, 3)), {})
    sizes = [t.dims for t in plan.apply().graph.initializer if 40 in t.dims]
    assert len(sizes) == 1


# --- the face -------------------------------------------------------------------------------------


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    net = Residual().eval()
    zero(net.grouped.weight, [0, 4])
    path = tmp_path / "net.onnx"
    onnx.save(exported(net, IMAGE), path)
    monkeypatch.setattr(sys, "argv", ["graphprune", "compact", str(path)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    stored = [  # a file tells of its own making, which in a small one is longer than its weights
        sum(len(t.raw_data) for t in onnx.load(file).graph.initializer)
        for file in (tmp_path / "net.compact.onnx", path)
    ]
    assert 0 < stored[0] < stored[1]
    assert "outputs: those of the given model" in capsys.readouterr().out.replace("\n", " ")
    monkeypatch.setattr(sys, "argv", ["graphprune", "compact", "timm:resnet18"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and "say where" in capsys.readouterr().err


def test_an_option_that_does_not_exist_is_named() -> None:
    with pytest.raises(graphprune.OptionError, match="compact has no option 'ratio'"):
        graphprune.compact(Residual(), ratio=0.5)


def test_heads_that_only_training_reaches_are_kept_apart() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.norm = conv(3, 8), nn.BatchNorm2d(8)
            self.head, self.side, self.drop = nn.Linear(8, 5), nn.Linear(8, 5), nn.Dropout(0.2)

        def forward(self, x: torch.Tensor) -> Any:
            x = torch.relu(self.norm(self.conv(x))).mean((2, 3))
            main = self.head(self.drop(x)) if not self.training else self.head(x)
            return (main, self.side(x)) if self.training else main

    net = Auxiliary().eval()
    zero(net.conv.weight, [1, 4])
    small, _ = check(net, IMAGE)
    assert small.conv.out_channels == 6
    for found, wanted in zip(small.train()(IMAGE), net.train()(IMAGE), strict=True):
        torch.testing.assert_close(found, wanted)


# --- what is assumed ------------------------------------------------------------------------------


def _asleep() -> nn.Module:
    """A network three channels of which hardly ever wake behind their ReLU."""
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with torch.no_grad():
        net[1].bias[:3] = -0.5
        net[1].weight[:3] = 0.05
    net.train()
    for _ in range(80):  # statistics are those of such inputs
        net(torch.randn(32, 3, 8, 8))
    return net.eval()


@pytest.mark.parametrize(("assume", "width"), [(None, 8), ("statistics", 5), ("data", 5)])
def test_channels_asleep_go_only_where_that_is_assumed(assume: Any, width: int) -> None:
    net = _asleep()
    given = {"assume": assume, "data": torch.randn(64, 3, 8, 8)} if assume else {}
    small, report = check(net, IMAGE, **given)
    assert small[0].out_channels == width
    assert any("it is assumed that" in told for told in report.warnings) == bool(assume)


@pytest.mark.parametrize("file", [False, True])
def test_what_is_assumed_of_data_must_be_true_of_all_of_them(
    file: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Row(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
            self.first.bias.data[:3] = -9.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.first(x)))

    net = exported(Row(), ROWS) if file else Row()
    monkeypatch.setattr("graphprune.passes.assume._MOST", 100)
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    given = {} if file else {"example_inputs": ROWS}
    graphprune.compact(net, data=[x[:120], x[120:]], assume="data", **given)
    x[170:] *= 200  # behind those that were looked at
    with pytest.raises(graphprune.VerifyError, match="is not true of all of data="):
        graphprune.compact(net, data=[x[:120], x[120:]], assume="data", **given)


def test_what_cannot_be_assumed_is_named() -> None:
    with pytest.raises(graphprune.OptionError, match="assume is one of 'statistics', 'data'"):
        graphprune.compact(Residual(), assume="luck")
