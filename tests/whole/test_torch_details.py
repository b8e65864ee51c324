"""What must carry over to the smaller module: types, devices, flags, attributes, copies."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.torch_version import TorchVersion

import graphprune
from tests.blocks import BLOCKS, Attention, Encoder, Residual, images


def _net() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.Dropout(0.5), nn.ReLU(), nn.Linear(32, 4))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtype_is_preserved(dtype: torch.dtype) -> None:
    small = graphprune.shrink(_net().to(dtype), 0.5, effort="fast")
    assert {p.dtype for p in small.parameters()} == {dtype}


def test_requires_grad_buffers_and_mode_are_preserved() -> None:
    model = Residual().train()
    model.conv1.weight.requires_grad_(False)
    model.bn1.eval()
    small = graphprune.shrink(model, 0.5, example_inputs=images(), compensate=False)
    assert not small.conv1.weight.requires_grad
    assert small.conv2.weight.requires_grad
    assert small.training
    assert not small.bn1.training
    assert isinstance(small.bn1.running_mean, torch.Tensor)
    assert small.bn1.running_mean.shape == small.bn1.weight.shape


def test_torch_nn_attributes_agree_with_the_weights() -> None:
    for name in ("grouped", "group norm", "recurrent", "residual", "generator", "pixel shuffle"):
        build, example = BLOCKS[name]
        small = graphprune.shrink(build(), 0.4, example_inputs=example(), compensate=False)
        for module in small.modules():
            if isinstance(module, nn.Linear):
                assert module.weight.shape == (module.out_features, module.in_features)
            elif isinstance(module, nn.Conv2d):
                assert module.weight.shape[:2] == (
                    module.out_channels, module.in_channels // module.groups,
                )  # fmt: skip
            elif isinstance(module, nn.ConvTranspose2d):
                assert module.weight.shape[:2] == (
                    module.in_channels, module.out_channels // module.groups,
                )  # fmt: skip
            elif isinstance(module, nn.BatchNorm2d):
                assert module.num_features == len(module.weight)
            elif isinstance(module, nn.GroupNorm):
                assert module.num_channels == len(module.weight)
                assert module.num_channels % module.num_groups == 0
            elif isinstance(module, nn.LSTM):
                assert module.weight_hh_l0.shape == (4 * module.hidden_size, module.hidden_size)


def test_python_attributes_follow() -> None:
    """Where the budget allows it, heads go whole and the width follows: the class is kept."""
    whole, wanted = (
        sum(p.numel() for p in Attention(width, heads).parameters())
        for width, heads in ((64, 8), (40, 5))
    )
    model = Attention(64, 8)
    small = graphprune.shrink(model, 1 - wanted / whole, example_inputs=torch.randn(2, 6, 10))
    assert type(small) is Attention
    assert small.num_heads == 5
    assert small.norm.normalized_shape == (small.embed.out_features,) == (40,)


def test_head_dim_and_temperature() -> None:
    """Without ties head_dim shrinks: the scale that PyTorch takes from it must not change."""
    torch.manual_seed(0)
    model = Attention(64, 2)
    with torch.no_grad():
        model.qkv.weight *= 20  # a sharp softmax: another temperature would show
    plan = graphprune.plan(
        model, 0.5, example_inputs=torch.randn(2, 6, 10), allocation="uniform", compensate=False
    )
    small = plan.apply()
    head = small.qkv.out_features // 3 // (1 if plan.report.groups[1].kept == 1 else 2)
    assert head < 32
    assert plan.report.verification.lowered < 1e-5


def test_a_fixed_width_is_generated_and_reported() -> None:
    model = Encoder()
    plan = graphprune.plan(model, 0.4, example_inputs=torch.randn(2, 5, 32), compensate=False)
    small = plan.apply()
    assert type(small) is Encoder
    assert list(plan.report.replaced) == ["attn"]
    assert "remain" in plan.report.replaced["attn"] or "width" in plan.report.replaced["attn"]
    assert "generated: attn" in str(plan.report)
    names = {name.removeprefix("attn.") for name, _ in small.attn.named_parameters()}
    assert names == {name for name, _ in model.attn.named_parameters()}
    copied = copy.deepcopy(small)
    x = torch.randn(3, 9, 32)[:, :5]
    torch.testing.assert_close(copied(x), small(x))


def test_generated_code_follows_train_and_eval() -> None:
    model = BLOCKS["transformer"][0]().eval()
    x = torch.randn(2, 5, 32)
    plan = graphprune.plan(model, 0.4, example_inputs=x, allocation="uniform", compensate=False)
    small = plan.apply()
    assert plan.report.replaced
    small.train()
    assert not torch.equal(small(x), small(x))  # dropout
    small.eval()
    assert torch.equal(small(x), small(x))


class Dropping(nn.Module):
    """Attention whose kernel, and with it the layout in memory, is another one in training."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        dropped = 0.3 if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped)
        return x + self.out(y.transpose(1, 2).contiguous().view(b, n, c))


def test_generated_code_follows_a_mode_with_another_layout_in_memory() -> None:
    model = nn.Sequential(nn.Linear(8, 32), Dropping(), nn.Linear(32, 5)).eval()
    x = torch.randn(2, 7, 8)
    plan = graphprune.plan(model, 0.5, example_inputs=x, compensate=False)
    small = plan.apply()
    assert list(plan.report.replaced) == ["1"]
    y = torch.randn(3, 9, 8)
    assert torch.equal(small(y), small(y))
    small.train()
    assert not torch.equal(small(y), small(y))


class Demanding(nn.Module):
    """A head for training alone, which takes larger images than the rest of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 12, 3, stride=32, padding=1), nn.BatchNorm2d(12)
        self.deep, self.head = nn.Conv2d(12, 20, 3, padding=1), nn.Linear(20, 5)
        self.aux = nn.Sequential(
            nn.AvgPool2d(5, 3), nn.Conv2d(20, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(16, 5),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> Any:
        x = self.deep(torch.relu(self.norm(self.stem(x)))).relu()
        out = self.head(x.mean((2, 3)))
        return (out, self.aux(x)) if self.training else out


def _vision(name: str) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, weights=None, init_weights=False)


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(Demanding, id="a head that takes larger images"),
        *(
            pytest.param(_vision(name), id=name, marks=pytest.mark.slow)
            for name in ("googlenet", "inception_v3")
        ),
    ],
)
def test_auxiliary_heads_train_and_inputs_are_large_enough_for_them(
    build: Callable[[], nn.Module],
) -> None:
    plan = graphprune.plan(build(), 0.5, verify=False, compensate=False)
    assert not plan.report.warnings
    assert plan.inputs is not None
    outputs = plan.apply().train()(*plan.inputs[0])
    sum(y.mean() for y in outputs).backward()


def test_training_mode_that_cannot_be_captured_is_a_warning() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.aux = nn.Linear(4, 16), nn.Linear(16, 2), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            if self.training and y.sum().item() > 0:
                return self.aux(y)
            return self.b(y)

    plan = graphprune.plan(Picky(), 0.3, compensate=False)
    plan.apply()
    assert "training mode could not be captured" in plan.report.warnings[0]
    assert "warning: training mode" in str(plan.report)


@pytest.mark.parametrize("likely", [False, True])
def test_what_training_masks_and_leaves_out_at_random_is_narrowed(likely: bool) -> None:
    class Masking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.other = nn.Linear(4, 16), nn.Linear(16, 16)
            self.mask, self.out = nn.Parameter(torch.randn(16)), nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.inner(x) * torch.tensor([0.5, 0.25]).sum()
            if self.training:  # with constants of its own, whose names are the same
                rows = (torch.rand(y.shape[:2]) < 0.5) & torch.tensor([True] * 8)
                if not likely:
                    y[rows] = self.mask
                elif torch.rand([]) < 0.9:
                    y = torch.where(rows[..., None], self.mask, y)
            if not (self.training and torch.rand([]) < 0.1):
                y = y + self.other(y)
            return self.out(y)

    plan = graphprune.plan(Masking(), 0.37, example_inputs=torch.randn(2, 8, 4), compensate=False)
    small = plan.apply().train()
    assert not plan.report.warnings and small.mask.shape == (small.inner.out_features,)
    for _ in range(20):
        small(torch.randn(2, 8, 4)).sum().backward()


@pytest.mark.skipif(
    TorchVersion(torch.__version__) < "2.8", reason="torch.export refuses such a model"
)
def test_a_cache_kept_by_the_model_does_not_leak() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2)
            self.cache: dict[str, torch.Tensor] = {}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            self.cache["last"] = y
            return self.b(y)

    model = Caching()
    graphprune.shrink(model, 0.5, compensate=False)
    assert model.cache == {}


def test_exported_result_runs() -> None:
    small = graphprune.shrink(
        Residual().eval(), 0.5, example_inputs=images(), compensate=False
    ).eval()
    program = torch.export.export(small, images(), strict=False)
    x = images()[0]
    torch.testing.assert_close(program.module()(x), small(x))


def test_a_batch_of_one_gives_a_model_for_any_batch() -> None:
    model = BLOCKS["transformer"][0]().eval()
    plan = graphprune.plan(
        model, 0.4, example_inputs=torch.randn(1, 5, 32), allocation="uniform", compensate=False
    )
    small = plan.apply()
    assert plan.report.replaced
    assert small(torch.randn(3, 5, 32)).shape == (3, 5, 32)


def test_a_submodule_that_was_compiled_in_place() -> None:
    """A copy went on calling what was compiled: the original."""
    model = Residual().eval()
    model.conv1.compile(backend="eager")
    small = graphprune.shrink(model, 0.5, example_inputs=images(), compensate=False)
    assert small(*images()).shape == (2, 5)
    assert type(small) is Residual
