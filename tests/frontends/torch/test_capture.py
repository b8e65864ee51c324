"""What captures follow: precision, packed sequences, stored numbers, caches, tables made once."""

from __future__ import annotations

import copy
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import graphprune

Batch = namedtuple("Batch", "x y")


def _shrunk(net: nn.Module, *inputs: Any, ratio: float = 0.5) -> nn.Module:
    small = graphprune.shrink(net.eval(), ratio, example_inputs=inputs, compensate=False)
    assert type(small) is type(net)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (net, small))
    assert after < 0.7 * before
    with torch.no_grad():
        small(*inputs)
    return small


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(16, 64), nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.head(self.body(x).relu())


def test_inside_autocast_axes_are_followed() -> None:
    assert _shrunk(Mixed(), torch.randn(2, 16))(torch.randn(3, 16)).dtype is torch.bfloat16


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.layer = kind(32, 24, batch_first=True, bidirectional=True, **options)
        self.head = nn.Linear(48, 5)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        x = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        return self.head(pad_packed_sequence(self.layer(x)[0], batch_first=True)[0])


@pytest.mark.parametrize(
    ("kind", "options"), [(nn.LSTM, {"num_layers": 2}), (nn.GRU, {}), (nn.RNN, {})]
)
def test_packed_sequences(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    ids, lengths = torch.randint(50, (3, 7)), torch.tensor([5, 7, 2])
    small = _shrunk(Tagger(kind, **options), ids, lengths)
    assert small.layer.hidden_size < 24
    other = small(torch.randint(50, (2, 9)), torch.tensor([4, 9]))
    assert other.shape == (2, 9, 5)


class Head(nn.Module):
    """Makes its table at the first call, of numbers that a plain tensor holds."""

    def __init__(self, once: bool) -> None:
        super().__init__()
        self.conv, self.shape, self.once = nn.Conv2d(32, 4, 1), None, once
        self.stride = torch.tensor([8.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        if self.shape != y.shape or not self.once:
            n = y.shape[2] * y.shape[3]
            self.scale = torch.cat([torch.full((n, 1), s) for s in self.stride]).T
            self.shape = y.shape
        return y.flatten(2) * self.scale


@pytest.mark.parametrize("once", [True, False])
def test_used_or_not_a_model_has_the_same_plan(once: bool) -> None:
    x = torch.randn(1, 3, 12, 12)
    found = []
    for sizes in ((), (12,), (12, 16)):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), Head(once)).eval()
        for size in sizes:
            net(torch.randn(1, 3, size, size))
        plan = graphprune.plan(net, 0.5, example_inputs=x, compensate=False)
        assert not plan.report.warnings
        kept = {n: [None if k is None else list(k) for k in d] for n, d in plan.kept.items()}
        found.append(kept)
        assert type(plan.apply()) is nn.Sequential
        assert hasattr(net[3], "scale") == bool(sizes)  # nothing is left on the model
    assert found[0] == found[1] == found[2]


class Scaled(nn.Module):
    """Makes a table of its own width at the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.table = nn.Linear(8, 16), nn.Linear(16, 3), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = torch.linspace(0, 1, self.a.out_features)
        return self.b(self.a(x) * self.table)


def test_a_table_of_a_width_is_cut_used_or_not() -> None:
    x, found = torch.randn(3, 8), []
    for used in (False, True):
        torch.manual_seed(0)
        net = Scaled().eval()
        if used:
            net(x)
        plan = graphprune.plan(net, 0.4, example_inputs=x[:2], compensate=False)
        small = plan.apply()
        assert type(small) is Scaled and not plan.report.replaced
        assert (net.table is None) is not used
        found.append(small(x))
    assert torch.equal(*found)


class Copied(nn.Module):
    """Copies a value as one copies an object."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        return self.b(copy.copy(y).relu_() + y)


def test_a_tensor_may_be_copied() -> None:
    assert type(_shrunk(Copied(), torch.randn(2, 8))) is Copied


def test_lengths_that_are_said_twice_follow_both_times() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = 8
            self.a, self.b, self.c = nn.Linear(6, 4), nn.Linear(6, 32), nn.Linear(32, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            one = self.a(x)[:, None]
            every = one.repeat_interleave(self.heads, 1, output_size=self.heads)
            return self.c((every * self.b(x).view(len(x), self.heads, -1)).flatten(1))

    small = graphprune.shrink(
        Net().eval(), 0.4, example_inputs=torch.randn(2, 6), compensate=False, keep=["a"]
    )
    assert type(small) is Net and small.heads < 8


class Observed(nn.Module):
    """Asks a buffer whether to do a thing, as fake quantizers do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 8)
        self.register_buffer("on", torch.ones(1, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        return self.b(x.relu() if self.on[0] == 1 else x.tanh())


def test_switches_that_buffers_hold() -> None:
    net, x = Observed().eval(), torch.randn(2, 8)
    assert graphprune.analyze(net, x).group("a.weight[0]").size == 32
    _shrunk(net, x)


class Marked(nn.Module):
    """Asks a mask that it makes of the shape of its input."""

    def __init__(self, mark: Any) -> None:
        super().__init__()
        self.a, self.b, self.mark = nn.Linear(8, 32), nn.Linear(32, 8), mark

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = self.mark(x)
        y = self.a(x)
        if mask.any().item():
            y = 3 * y.relu()
        return self.b(y) + len(mask.nonzero()) * mask.long().sum()


def _written(x: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros(x.shape[1], dtype=torch.bool)
    mask[0] = True
    return mask


def _like(x: torch.Tensor) -> torch.Tensor:
    mask = torch.zeros_like(x[0])
    mask[1:3] = 1
    return mask > 0


def _added(x: torch.Tensor) -> torch.Tensor:
    mask = x.new_zeros(x.shape[1])
    mask += 1
    first = mask[:4]
    first -= 1
    return mask > 0


@pytest.mark.parametrize("mark", [_written, _like, _added])
def test_masks_made_of_a_shape_are_known_after_they_are_written_to(mark: Any) -> None:
    net, x = Marked(mark).eval(), torch.randn(2, 8)
    small = _shrunk(net, x)
    for weight in (small.a.weight, small.a.bias):
        weight.data.zero_()
    small.a.bias.data.fill_(-1)  # nothing of it passes the ReLU
    rest = len(mark(x).nonzero()) ** 2
    torch.testing.assert_close(small(x), (small.b.bias + rest).expand(2, 8))


@pytest.mark.parametrize("write", ["__setitem__", "__iadd__", "copy_", "view"])
def test_a_tensor_that_inputs_are_written_to_is_not_known(write: str) -> None:
    class Net(Marked):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mask = torch.zeros(8)
            if write == "view":
                part = mask[:4]
                part.copy_(x[0, :4])
            elif write == "__setitem__":
                mask[0] = x[0, 0]
            else:
                mask = getattr(mask, write)(x[0])
            return self.b(self.a(x).relu() if (mask != 0).any().item() else self.a(x))

    with pytest.raises(graphprune.GraphPruneError, match="cannot capture Net"):
        graphprune.shrink(Net(None), 0.5, example_inputs=torch.randn(2, 8), compensate=False)


def test_named_tuples_are_saved_with_a_plan(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)

        def forward(self, batch: Any) -> torch.Tensor:
            return self.b((self.a(batch.x) + self.a(batch.y)).relu())

    net = Net()
    given = (Batch(torch.randn(2, 8), torch.randn(2, 8)),)
    plan = graphprune.plan(net, 0.5, example_inputs=given, compensate=False)
    plan.save(tmp_path / "plan.json")
    small = graphprune.load_plan(tmp_path / "plan.json").apply(net)
    assert small.a.out_features == plan.apply().a.out_features < 32


def test_an_attention_mask_of_minus_infinity_may_be_a_parameter() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 8)
            mask = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
            self.mask = nn.Parameter(mask, requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x).relu()
            return self.b(torch.softmax(x @ x.mT + self.mask, -1) @ x)

    _shrunk(Net(), torch.randn(2, 4, 8))
    broken = Net()
    with torch.no_grad():
        broken.a.weight[0, 0] = -torch.inf
    with pytest.raises(graphprune.LiftError, match=r"a\.weight holds NaN or infinite"):
        graphprune.plan(broken, 0.5, example_inputs=torch.randn(2, 4, 8), compensate=False)


@pytest.mark.parametrize("kind", ["dead", "padding", "share", "mask"])
def test_truth_values_are_reduced(kind: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = self.a(x).relu()
            found = {
                "dead": lambda: (h <= 0).sum(-1),
                "padding": lambda: (h == 0).all(-1),
                "share": lambda: (h == 0).float().mean(-1),
                "mask": lambda: h.sum(-1) * ~(h == 0).all(-1),
            }[kind]()
            return self.b(h), found

    _shrunk(Net(), torch.randn(2, 8))


class Adapted(nn.Module):
    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(nn.functional.dropout(self.down(x), 0.0)) * 2


def test_adapters_keep_their_rank() -> None:
    net = nn.Sequential(Adapted(nn.Linear(32, 64), 8), nn.GELU(), Adapted(nn.Linear(64, 32), 8))
    small = _shrunk(net, torch.randn(2, 32), ratio=0.4)
    assert [m.down.out_features for m in (small[0], small[2])] == [8, 8]
    assert small[0].base.out_features < 64


@pytest.mark.parametrize("option", [{"ratios": {"*.down": 0.5}}, {"limits": {"0.down": (4, 4)}}])
def test_ranks_shrink_where_they_are_asked_for_and_their_plan_fits_again(
    option: dict[str, Any], tmp_path: Path
) -> None:
    def net() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(
            Adapted(nn.Linear(32, 64), 8), nn.GELU(), Adapted(nn.Linear(64, 32), 8)
        )

    plan = graphprune.plan(
        net(), None if "ratios" in option else 0.2, example_inputs=torch.randn(2, 32),
        compensate=False, **option,
    )  # fmt: skip
    small = plan.apply()
    ranks = [m.down.out_features for m in (small[0], small[2])]
    assert ranks == ([4, 4] if "ratios" in option else [4, 8])
    plan.save(tmp_path / "plan.json")
    again = graphprune.load_plan(tmp_path / "plan.json").apply(net())
    x = torch.randn(3, 32)
    torch.testing.assert_close(again(x), small(x))


def test_the_unknown_operation_is_named_first() -> None:
    deps = graphprune.analyze(nn.Linear(4, 4), torch.randn(2, 4))
    deps.unknown["my.unheard_of"] = ["call"]
    from graphprune.choice.select import _nothing

    assert "; there is no rule for my.unheard_of (at call)" in _nothing(deps)


class _Mapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.vmap(lambda row: self.b(self.a(row).relu()))(x)


def test_what_vmap_maps_is_followed_one_by_one() -> None:
    torch.manual_seed(0)
    net = _Mapped().eval()
    plan = graphprune.plan(net, 0.5, example_inputs=torch.randn(2, 8), compensate=False)
    small, kept = plan.apply(), torch.as_tensor(plan.kept["a.weight"][0])
    assert type(small) is _Mapped and len(kept) == small.a.out_features == 16
    x = torch.randn(5, 8)
    wanted = net.b.bias + net.a(x).relu()[:, kept] @ net.b.weight[:, kept].T
    torch.testing.assert_close(small(x), wanted)
