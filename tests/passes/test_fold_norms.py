"""fold_norms: scales and shifts go into the linear operations beside them, and nothing changes."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import graphprune
from graphprune.frontends.onnx.whole import run_model
from graphprune.frontends.opening import open_model
from graphprune.pipeline import Asked, Pipeline, Work
from graphprune.pipelines import FOLDING

IMAGE = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
ROWS = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def trained(net: nn.Module) -> nn.Module:
    """A network in eval mode whose norms look trained."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.5)
            module.running_var.uniform_(0.3, 2)
            if module.affine:
                nn.init.normal_(module.weight, 1, 0.3)
                nn.init.normal_(module.bias, 0, 0.5)
    return net.eval()


def worked(model: Any, x: torch.Tensor | None = None, passes: Any = FOLDING[1:2]) -> Work:
    """The work that passes have done on a model."""
    opened = open_model(model, None if x is None else ((x,), {}))
    work = Work(opened.program, Asked())
    Pipeline(passes).decide(work)
    return work


def exported(net: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    """A network as the older exporter writes it, its norms left alone."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (x,), file, dynamo=False, do_constant_folding=False, input_names=["x"],
            training=torch.onnx.TrainingMode.PRESERVE, dynamic_axes={"x": {0: "n"}},
        )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


def gap(expected: Any, found: Any) -> float:
    """Largest difference, relative to the largest expected number."""
    a, b = torch.as_tensor(expected).detach(), torch.as_tensor(found).detach()
    return float((a - b).abs().max() / a.abs().max())


def conv(*args: int, **kwargs: Any) -> nn.Module:
    return nn.Conv2d(*args, bias=False, **kwargs)


class Scaled(nn.Module):
    """A layer scale, as in vision transformers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.linspace(0.5, 2, size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Activated(nn.BatchNorm2d):
    """A norm with an activation behind it, in one module."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(super().forward(x))


FOLDED = {
    "conv": lambda: nn.Sequential(conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4, 1)),
    "with a bias": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
    "without gains": lambda: nn.Sequential(conv(3, 8, 3), nn.BatchNorm2d(8, affine=False)),
    "grouped": lambda: nn.Sequential(conv(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.ReLU()),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(3, 8, 3, 2), nn.BatchNorm2d(8)),
    "transposed in groups": lambda: nn.Sequential(
        nn.ConvTranspose2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6)
    ),
    "into what is behind": lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), conv(3, 5, 3)),
    "behind, in groups": lambda: nn.Sequential(
        nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, groups=3)
    ),
    "activated": lambda: nn.Sequential(conv(3, 8, 3), Activated(8), conv(8, 4, 1)),
}


@pytest.mark.parametrize("kind", ["module", "file"])
@pytest.mark.parametrize("name", FOLDED)
def test_a_norm_is_folded(name: str, kind: str) -> None:
    net = trained(FOLDED[name]())
    more = torch.cat([IMAGE, IMAGE.flip(0) * 2, IMAGE[:1]])
    if kind == "file":
        file = exported(net, IMAGE)
        before = copy.deepcopy(file)
        work = worked(file)
        small = work.program.model
        onnx.checker.check_model(small, full_check=True)
        assert file == before
        assert all(node.op_type != "BatchNormalization" for node in small.graph.node)
        assert len(small.graph.initializer) < len(file.graph.initializer)
        for x in (IMAGE, more):
            want, found = (run_model(m, {"x": x.numpy()})[0] for m in (file, small))
            assert gap(want, found) < 1e-5
    else:
        net = net.double()
        before = copy.deepcopy(net.state_dict())
        work = worked(net, IMAGE.double())
        small = work.program.model
        assert all(torch.equal(x, before[n]) for n, x in net.state_dict().items())
        assert not any(type(m) is nn.BatchNorm2d for m in small.modules())
        with torch.no_grad():
            for x in (IMAGE.double(), more.double()):
                assert gap(net(x), small(x)) < 1e-12
    assert work.rows[0].changed
    assert not work.left


def test_linear_layers_take_norms_and_scales() -> None:
    net = trained(
        nn.Sequential(
            nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 5), Scaled(5)
        )
    ).double()
    small = worked(net, ROWS.double()).program.model
    assert [type(m).__name__ for m in small] == "Linear Identity GELU Linear Identity".split()
    assert gap(net(ROWS.double()), small(ROWS.double())) < 1e-12


class Twice(nn.Module):
    """One convolution whose result two read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.norm(y) + y


class Shared(nn.Module):
    """One convolution that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.conv(self.a(self.conv(x)).relu()))


def _hooked() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    net[0].register_forward_hook(lambda module, args, result: None)
    return net


def _training() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))


def _normed() -> nn.Module:
    weight = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    return nn.Sequential(weight, nn.BatchNorm2d(8))


class Auxiliary(nn.Module):
    """A second head that only training has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = conv(3, 8, 3), nn.BatchNorm2d(8), conv(8, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.norm(self.conv(x)).relu()
        return (y, self.head(y)) if self.training else y


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Twice, "others read what"),
        (Auxiliary, "conv.weight is read in training mode too"),
        (Shared, "conv.weight is read in several places"),
        (_hooked, "has hooks"),
        (_training, "is in training mode"),
        (_normed, "its weights are computed"),
        (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3), conv(3, 4, 3, padding=1)), "pads"),
    ],
)
def test_what_cannot_be_folded_stays_and_says_why(make: Any, why: str) -> None:
    net = trained(make())
    if make is _training:
        net.train()
    work = worked(net, IMAGE)
    assert any(why in reason for reason in work.left.values()), work.left
    assert any(isinstance(m, nn.BatchNorm2d) for m in work.program.model.modules())
    assert torch.equal(net.eval()(IMAGE), work.program.model.eval()(IMAGE))


def test_folding_is_part_of_a_plan() -> None:
    net = trained(nn.Sequential(conv(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 4, 1)))
    passes = ["fold_norms", *graphprune.DEFAULT]
    plan = graphprune.plan(net, 0.4, example_inputs=IMAGE, compensate=False, passes=passes)
    small = plan.apply()
    assert isinstance(small[1], nn.Identity)
    assert small[0].out_channels < 16
    again = plan.apply(copy.deepcopy(net))
    assert torch.equal(small(IMAGE), again(IMAGE))


def test_a_pass_that_changes_the_model_comes_first() -> None:
    with pytest.raises(graphprune.PassError, match="put it before 'couple'"):
        Pipeline(["couple", "fold_norms"])
