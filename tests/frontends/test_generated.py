"""Generated code is the original in everything, and rare."""

from __future__ import annotations

import copy
import functools
import io
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune.core.errors import GraphPruneError


class Quarter(nn.Module):
    """A share of the channels, told by the shape, so that most widths need generated code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels // 4, channels // 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.offset = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Numbers of the batch, of the image and of the type; a stretch without gradients."""
        share = x.shape[1] // 4
        with torch.no_grad():
            mean = x.mean((1, 2, 3), keepdim=True) * 0 + self.offset
        y = torch.cat([self.conv(x[:, :share]), x[:, share:]], 1)
        y = (
            nn.functional.dropout(self.norm(y), 0.5, self.training)
            / (x.shape[2] * x.shape[3]) ** 0.5
            / len(x)
        )
        return y + torch.zeros(x.shape[0], 1, 1, 1, dtype=x.dtype) + mean


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 1), Quarter(32), nn.Conv2d(32, 4, 1)).eval()


def cut(model: nn.Module, **options: Any) -> Any:
    """A plan whose widths the code cannot express: its counts are drawn."""
    for seed in range(12):
        plan = graphprune.plan(
            model, 0.3, example_inputs=torch.randn(2, 3, 8, 8), compensate=False,
            importance="random", allocation="global", seed=seed, **options,
        )  # fmt: skip
        small = plan.apply()
        if plan.report is not None and plan.report.replaced:
            return plan, small
    raise AssertionError("no choice of widths needs generated code")


@functools.cache
def narrowed() -> tuple[nn.Module, Any, nn.Module]:
    """The net, a plan whose widths its code cannot express, and the smaller net."""
    model = net()
    return model, *cut(model)


def masked(model: nn.Module, plan: Any) -> nn.Module:
    out = copy.deepcopy(model)
    named = {**dict(out.named_parameters()), **dict(out.named_buffers())}
    for name, kept in plan.kept.items():
        for dim, indices in enumerate(kept):
            if indices is not None:
                gone = sorted(set(range(named[name].shape[dim])) - set(indices.tolist()))
                named[name].data.index_fill_(dim, torch.tensor(gone), 0)
    return out


def test_only_the_odd_module_is_generated_and_is_still_of_its_class() -> None:
    _, plan, small = narrowed()
    assert list(plan.report.replaced) == ["1"]
    assert type(small) is nn.Sequential and isinstance(small[1], Quarter)
    assert not any(module.training for module in small.modules())
    buffer = io.BytesIO()
    torch.save(small, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    x = torch.randn(3, 3, 8, 8)
    assert isinstance(again[1], Quarter)
    assert torch.equal(again(x), small(x)) and torch.equal(copy.deepcopy(small)(x), small(x))
    again.train()
    assert not torch.equal(again(x), again(x))


@pytest.mark.parametrize("batch,size", [(2, 8), (5, 8), (1, 8), (3, 12), (2, 9)])
def test_numbers_of_the_batch_and_of_the_image_follow(batch: int, size: int) -> None:
    model, plan, small = narrowed()
    x = torch.randn(batch, 3, size, size)
    torch.testing.assert_close(small(x), masked(model, plan)(x))


def test_types_follow() -> None:
    _, _, small = narrowed()
    for dtype in (torch.float64, torch.bfloat16):
        x = torch.randn(2, 3, 8, 8, dtype=dtype)
        assert copy.deepcopy(small).to(dtype)(x).dtype == dtype


def test_hooks_attributes_gradients_and_memory_format_stay() -> None:
    model = net().to(memory_format=torch.channels_last)
    seen: list[str] = []
    model[1].register_forward_hook(lambda *_: seen.append("outer"))
    model[1].conv.register_forward_hook(lambda *_: seen.append("inner"))
    model[0].weight.no_decay = True
    model[0].weight.register_hook(lambda grad: grad * 0)
    model[2].bias.requires_grad = False
    _, small = cut(model)
    seen.clear()
    small(torch.randn(2, 3, 8, 8)).sum().backward()
    assert seen == ["inner", "outer"]
    assert small[0].weight.no_decay and not small[0].weight.grad.any()
    assert not small[2].bias.requires_grad
    assert small[1].offset.grad is None, "code without gradients"
    assert small[1].conv.weight.is_contiguous(memory_format=torch.channels_last)


class Table(nn.Module):
    """A number of the image that follows no simple law."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A share of the channels is scaled."""
        share = x.shape[1] // 4
        return torch.cat([x[:, :share] * {8: 0.3, 16: 0.1}.get(x.shape[2], 2.0), x[:, share:]], 1)


def test_what_generated_code_cannot_follow_it_refuses_by_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 1), Table(), nn.Conv2d(32, 4, 1)).eval()
    plan, small = cut(model)
    x = torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(small(x), masked(model, plan)(x))
    with pytest.raises(GraphPruneError, match=r"1: its input x has size 12 in dimension 2"):
        small(torch.randn(2, 3, 12, 8))


class Shift(nn.Module):
    """Code that does not fail on other widths: it computes something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """An eighth of the channels moves."""
        share, out = x.shape[1] // 8, torch.zeros_like(x)
        out[:, :share, 1:] = x[:, :share, :-1]
        out[:, share:] = x[:, share:]
        return out


def test_without_the_check_the_result_is_the_same() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 1), Shift(), nn.Conv2d(32, 4, 1)).eval()
    x = torch.randn(2, 3, 12, 12)
    for seed in range(3):
        results = [
            graphprune.shrink(
                model, 0.3, example_inputs=torch.randn(2, 3, 8, 8), compensate=False, verify=verify,
                importance="random", allocation="global", seed=seed,
            )(x)
            for verify in (True, False)
        ]  # fmt: skip
        assert torch.equal(*results)


class Guided(nn.Module):
    """Halves that a choice of widths may make unequal, and a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.g = nn.Conv2d(8, 16, 1), nn.Conv2d(24, 8, 1), nn.Linear(4, 8)

    def forward(self, x: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        """A gate on one half."""
        y = list(self.a(x).chunk(2, 1))
        y.append(y[-1] * self.g(guide)[:, :, None, None].sigmoid())
        return self.b(torch.cat(y, 1))


class Dispatching(nn.Module):
    """A net that tells its layers apart by their classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3), Guided(), nn.Conv2d(8, 4, 3)])

    def forward(self, x: torch.Tensor, guide: torch.Tensor) -> torch.Tensor:
        """Each layer with what it takes."""
        for layer in self.layers:
            x = layer(x, guide) if isinstance(layer, Guided) else layer(x)
        return x


def test_code_that_dispatches_by_class_goes_on_working() -> None:
    torch.manual_seed(0)
    plan = graphprune.plan(
        Dispatching().eval(), 0.4, "channels", compensate=False, importance="random",
        example_inputs=(torch.randn(2, 3, 8, 8), torch.randn(2, 4)), allocation="global", seed=3,
    )  # fmt: skip
    small = plan.apply()
    assert plan.report is not None and list(plan.report.replaced) == ["layers.1"]
    assert type(small) is Dispatching
    assert small(torch.randn(3, 3, 9, 9), torch.randn(3, 4)).shape == (3, 4, 5, 5)


class ConvNorm(nn.Module):
    """A convolution and its norm, as most code bases have them."""

    def __init__(self, taken: int, made: int, size: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(taken, made, size, padding=size // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(made)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Both."""
        return self.bn(self.conv(x))


class Rep(nn.Module):
    """A block that can be fused into one convolution, whose sizes it takes from its attributes."""

    def __init__(self, taken: int, made: int, groups: int = 1) -> None:
        super().__init__()
        self.in_chs, self.out_chs, self.groups = taken, made, groups
        self.kxk, self.scale = (ConvNorm(taken, made, size, groups) for size in (3, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The branches' sum."""
        return torch.relu(self.kxk(x) + self.scale(x))

    def fused(self) -> nn.Conv2d:
        """One convolution in place of the branches."""
        out = nn.Conv2d(self.in_chs, self.out_chs, 3, padding=1, groups=self.groups)
        kernel, bias = torch.zeros_like(out.weight), torch.zeros(self.out_chs)
        for branch in (self.kxk, self.scale):
            bn = branch.bn
            factor = bn.weight / (bn.running_var + bn.eps).sqrt()
            weight = branch.conv.weight * factor[:, None, None, None]
            kernel = kernel + nn.functional.pad(weight, [(3 - weight.shape[-1]) // 2] * 4)
            bias = bias + bn.bias - bn.running_mean * factor
        out.weight.data, out.bias.data = kernel.detach(), bias.detach()  # type: ignore[union-attr]
        return out


def test_attributes_of_blocks_that_can_be_fused_follow_all_their_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        Rep(3, 16), Rep(16, 32, 16), Rep(32, 32, 32), Rep(32, 32), nn.Conv2d(32, 4, 1)
    ).eval()
    small = graphprune.shrink(
        model, 0.4, example_inputs=torch.randn(1, 3, 8, 8), compensate=False, allocation="uniform"
    )
    x = torch.randn(2, 3, 8, 8)
    for block in small[:4]:
        conv = block.kxk.conv
        held = (block.in_chs, block.out_chs, block.groups)
        assert held == (conv.in_channels, conv.out_channels, conv.groups)
        torch.testing.assert_close(torch.relu(block.fused()(x)), block(x))
        x = block(x)
    assert small[2].groups < 32


class Mixed(nn.Module):
    """A stretch in mixed precision, and a conversion behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A share of the features, told by the shape."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = self.a(x)
            y = self.b(y[:, : y.shape[1] // 4])
        return self.c(y.float())


def test_mixed_precision_is_entered_and_left_again() -> None:
    torch.manual_seed(0)
    net = Mixed().eval()
    for seed in range(12):
        plan = graphprune.plan(
            net, 0.5, "channels", example_inputs=torch.randn(2, 8), compensate=False,
            importance="random", allocation="global", keep=["c"], seed=seed,
        )  # fmt: skip
        small = plan.apply()
        if plan.report.replaced:
            break
    assert list(plan.report.replaced) == [""]
    x = torch.randn(5, 8)
    for training in (False, True):
        torch.testing.assert_close(small.train(training)(x), masked(net, plan)(x))
    small.b.forward = lambda _: 1 / 0
    with pytest.raises(ZeroDivisionError):
        small(x)
    assert not torch.is_autocast_enabled("cpu")


def test_what_parameters_carry_is_copied_and_cut() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    weight = net[0].weight
    mask = (torch.rand(32, 8) < 0.5).float()
    weight.mask, weight.notes = mask, [1]
    weight.register_hook(lambda gradient: gradient * mask)
    plan = graphprune.plan(net, 0.5, example_inputs=torch.randn(2, 8), compensate=False)
    small = plan.apply()
    (kept, _) = plan.kept["0.weight"]
    cut_mask = mask[torch.as_tensor(kept)]
    assert torch.equal(small[0].weight.mask, cut_mask) and small[0].weight.notes is not weight.notes
    small(torch.randn(3, 8)).sum().backward()
    assert not (small[0].weight.grad * (1 - cut_mask)).any() and small[0].weight.grad.any()


class Optional(nn.Module):
    """A share of the features, told by the shape, and an input that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 32), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor, more: torch.Tensor | None = None) -> torch.Tensor:
        """Adds what it is given."""
        y = self.a(x)
        y = self.b(y[:, : y.shape[1] // 4]).relu()
        return self.c(y) if more is None else self.c(y) + more


class Scaled(Optional):
    """The same, with an input that means something else where it is left out."""

    def forward(self, x: torch.Tensor, more: torch.Tensor | None = None) -> torch.Tensor:
        """Scales by what it is given."""
        y = super().forward(x)
        return y if more is None else y * more


def cut_optional(model: nn.Module, inputs: tuple[torch.Tensor, ...], keep: str = "c") -> nn.Module:
    """A smaller model, part of which is generated."""
    for seed in range(12):
        plan = graphprune.plan(
            model.eval(), 0.5, "channels", example_inputs=inputs, compensate=False,
            importance="random", allocation="global", keep=[keep], seed=seed,
        )  # fmt: skip
        small = plan.apply()
        if plan.report.replaced:
            return small
    raise AssertionError("no choice of widths needs generated code")


@pytest.mark.parametrize("given", [False, True])
def test_inputs_that_may_be_left_out_are_refused_where_code_was_made_otherwise(given: bool) -> None:
    torch.manual_seed(0)
    inputs = (torch.randn(2, 8), torch.randn(2, 4)) if given else (torch.randn(2, 8),)
    small = cut_optional(Scaled() if given else Optional(), inputs)
    assert small(*inputs).shape == (2, 4)
    with pytest.raises(GraphPruneError, match="its input more"):
        small(inputs[0], None if given else torch.randn(2, 4))


class Tabled(Optional):
    """The same, and a table that is made at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, more: torch.Tensor | None = None) -> torch.Tensor:
        """Adds the table."""
        if self.table is None:
            self.table = torch.arange(4.0)
        return super().forward(x, more) + self.table


def test_a_fresh_model_and_a_used_one_are_generated_alike() -> None:
    torch.manual_seed(0)
    x, fresh = torch.randn(2, 8), Tabled()
    used = copy.deepcopy(fresh)
    used(x)
    found = [cut_optional(model, (x,)) for model in (fresh, used)]
    x = torch.randn(5, 8)
    assert torch.equal(found[0](x), found[1](x))


class Masking(nn.Module):
    """Leaves out a mask of no effect, unless it is captured, as models of Hugging Face do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Optional()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Tells whether it is traced."""
        return self.inner(x, x.new_zeros(len(x), 4) if torch.compiler.is_compiling() else None)


def test_a_mask_that_is_made_only_for_a_capture_is_left_out() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8)
    small = cut_optional(Masking(), (x,), "inner.c")
    assert torch.equal(small(x), small.inner(x, torch.zeros(2, 4)))
    assert small.double()(torch.randn(5, 8).double()).shape == (5, 4)
    small = cut_optional(Optional(), (x, torch.randn(2, 4)))
    assert torch.equal(small(x), small(x, torch.zeros(2, 4)))


class Classifier(nn.Module):
    """Words, an encoder, and what the first word says."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 64), nn.Linear(64, 5)
        layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)

    def forward(self, ids: torch.Tensor, pad: torch.Tensor | None = None) -> torch.Tensor:
        """With a mask of what is padding, or without."""
        return self.head(self.encoder(self.embed(ids), src_key_padding_mask=pad)[:, 0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("given", [False, True])
def test_an_encoder_with_an_odd_number_of_heads_takes_masks(given: bool) -> None:
    torch.manual_seed(0)
    pad = torch.zeros(2, 8, dtype=torch.bool)
    pad[1, 5:] = True
    inputs = (torch.randint(50, (2, 8)), *([pad] if given else []))
    plan = graphprune.plan(Classifier().eval(), 0.5, example_inputs=inputs, compensate=False)
    small = plan.apply()
    assert type(small) is Classifier and small.encoder.layers[0].self_attn.num_heads == 3
    longer = torch.randint(50, (3, 12)), torch.zeros(3, 12, dtype=torch.bool)
    for training in (False, True):
        small.train(training)
        with torch.no_grad():
            for ids, mask in ((inputs[0], None), (inputs[0], pad), longer):
                assert small(ids, mask).isfinite().all()


@pytest.mark.parametrize("what", ["modes", "vary"])
def test_code_that_follows_too_little_is_found_out(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the search misses the mode, or sizes, the code refuses them instead."""
    monkeypatch.setattr(f"graphprune.frontends.torch.follow._Search.{what}", lambda *_: None)
    plan, small = cut(net())
    assert list(plan.report.replaced) == ["1"]
    assert any("generated code" in warning for warning in plan.report.warnings)
    assert small(torch.randn(2, 3, 8, 8)).isfinite().all()
    other = small.train(), torch.randn(2, 3, 8, 8)
    if what == "vary":
        other = small, torch.randn(3, 3, 8, 8)
    with pytest.raises(GraphPruneError, match="generated"):
        other[0](other[1])


class Told(nn.Module):
    """A backbone that tells its features' widths, for whoever builds a head on it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage = nn.Conv2d(3, 16, 3), nn.Sequential(nn.Conv2d(16, 24, 3), nn.ReLU())
        self.head = nn.Conv2d(24, 4, 1)
        self.feature_info = [
            {"num_chs": 16, "reduction": 2, "module": "stem"},
            {"num_chs": 24, "reduction": 4, "module": "stage"},
        ]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The head's result."""
        return self.head(self.stage(self.stem(x)))


def test_what_a_model_tells_of_its_widths_is_told_anew() -> None:
    torch.manual_seed(0)
    model = Told().eval()
    small = graphprune.shrink(
        model, 0.4, example_inputs=torch.randn(2, 3, 9, 9), compensate=False, verify=False
    )
    told = [entry["num_chs"] for entry in small.feature_info]
    assert told == [small.stem.out_channels, small.stage[0].out_channels] != [16, 24]
    assert [entry["reduction"] for entry in small.feature_info] == [2, 4]
    assert model.feature_info[0]["num_chs"] == 16


class Heads(nn.Module):
    """Attention whose code fixes the number of heads and their width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.qkv, self.b = nn.Linear(6, 32), nn.Linear(32, 96), nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(self.a(x)).reshape(b, n, 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.b(y.transpose(1, 2).reshape(b, n, 32))


def heads_narrowed(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    model = Heads().to(dtype).eval()
    plan = graphprune.plan(
        model, 0.4, example_inputs=torch.randn(2, 5, 6, dtype=dtype), compensate=False,
        allocation="uniform",
    )  # fmt: skip
    small = plan.apply()
    assert plan.report.replaced
    return small


class Attended(nn.Module):
    """Attention to one position more than there are: keys grow by one beside the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)
        self.attention = nn.MultiheadAttention(32, 4, add_zero_attn=True)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.a(x)
        y, weights = self.attention(x, x, x)
        return self.b(y), weights


def test_a_length_beside_a_narrowed_one_grows_by_steps() -> None:
    torch.manual_seed(0)
    net = Attended().double().eval()
    plan = graphprune.plan(net, 0.5, example_inputs=torch.randn(8, 2, 6).double(), compensate=False)
    small, longer = plan.apply(), torch.randn(13, 3, 6).double()
    assert "attention" in plan.report.replaced
    torch.testing.assert_close(small(longer)[0], masked(net, plan)(longer)[0])


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated
def test_older_exporters_see_sizes_follow() -> None:
    """`torch.jit.trace`, on which the ONNX exporter without dynamo builds, wrote them down."""
    small = heads_narrowed(torch.float32)
    traced, x = torch.jit.trace(small, torch.randn(2, 5, 6)), torch.randn(3, 9, 6)
    torch.testing.assert_close(traced(x), small(x))


def test_code_made_in_half_precision_runs_in_single() -> None:
    small = heads_narrowed(torch.bfloat16)
    assert small.float()(torch.randn(3, 9, 6)).dtype is torch.float32


class Mixing(nn.Module):
    """A table of pairs of positions cut to the length of the input, and a mean over its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)
        self.table = nn.Parameter(torch.randn(40, 40))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = x.shape[1]
        return self.b((self.table[:length, :length] @ self.a(x)).relu().mean(1))


def test_where_rows_went_a_cut_follows_no_other_length() -> None:
    """Generated code cut at as many rows in proportion, and took others."""
    torch.manual_seed(0)
    plan = graphprune.plan(
        Mixing(), 0.1, example_inputs=torch.randn(2, 16, 6), compensate=False,
        allocation="uniform",
    )  # fmt: skip
    small = plan.apply()
    assert small.table.shape[0] < 40
    assert small(torch.randn(5, 16, 6)).shape == (5, 3)
    with pytest.raises(GraphPruneError, match="size 20"):
        small(torch.randn(2, 20, 6))
