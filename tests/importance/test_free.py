"""Channels whose removal changes nothing go first, and nothing is mended after them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, helper
from torch import nn

import graphprune
from graphprune.importance.free import foremost, free
from graphprune.importance.freedom import Free
from tests.frontends.onnx.exports import graph, run

DEAD = (1, 2, 5, 7)


class Net(nn.Module):
    """Four of the eight channels of each width are zero behind their batch norms."""

    def __init__(self, dead: tuple[int, ...] = DEAD) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)
        for norm in (self.norm1, self.norm2):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
            norm.running_mean = torch.randn(8) * 0.1
            for held in (norm.weight, norm.bias):
                held.data[list(dead)] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = nn.functional.silu(self.norm2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _free(model: nn.Module, x: torch.Tensor = X) -> dict[str, list[int]]:
    deps = graphprune.analyze(model, x)
    found = free(deps)
    return {g.name: np.flatnonzero(found[g.axis]).tolist() for g in deps.groups if g.axis in found}


def test_zeros_are_followed_through_activations() -> None:
    wanted = list(DEAD)
    assert _free(Net().eval()) == {"conv1.weight[0]": wanted, "conv2.weight[0]": wanted}
    assert _free(Net(()).eval()) == {}


def test_what_activations_make_of_zero_counts() -> None:
    class Other(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.sigmoid(self.norm1(self.conv1(x)))
            return self.head(torch.relu(self.norm2(self.conv2(x))).mean((2, 3)))

    assert list(_free(Other().eval())) == ["conv2.weight[0]"]


def test_a_sum_is_zero_where_all_of_its_terms_are() -> None:
    class Residual(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm1(self.conv1(x)))
            return self.head((x + self.norm2(self.conv2(x))).relu().mean((2, 3)))

    net = Residual().eval()
    net.norm2.bias.data[2] = 1.0
    assert _free(net) == {"conv1.weight[0]": [1, 5, 7]}


def test_what_no_one_reads_is_free_and_what_one_of_two_reads_is_not() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)
            self.a.weight.data[:, [2, 3]] = 0
            self.b.weight.data[:, [3, 4]] = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = self.first(x).relu()
            return self.a(h) + self.b(h)

    assert _free(Two(), X[0, 0, :, :4].contiguous()) == {"first.weight[0]": [3]}


def test_what_a_layer_norm_averages_is_not_free() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 4))
    with torch.no_grad():
        net[1].weight[:2] = net[1].bias[:2] = 0
        net[0].weight[:2] = net[0].bias[:2] = 0
    assert _free(net, torch.randn(4, 8)) == {}


def test_a_channel_that_merely_seems_dead_is_not_free() -> None:
    net = Net(()).eval()
    net.norm1.bias.data[3] = -100.0  # its ReLU lets nothing of usual inputs through
    assert _free(net) == {}


@pytest.mark.parametrize("importance", ["l2", "bn_scale", "fpgm", "random"])
def test_they_go_first_whatever_the_criterion(importance: str) -> None:
    net = Net().eval()
    net.norm1.weight.data[0] = 1e-4  # small, and not nothing
    small = graphprune.shrink(
        net, 0.5, of="channels", example_inputs=X, importance=importance, compensate=False
    )
    assert small.conv1.out_channels == small.conv2.out_channels == 4
    torch.testing.assert_close(small(X), net(X), rtol=1e-5, atol=1e-6)


def test_scores_of_all_signs_leave_them_in_front() -> None:
    deps = graphprune.analyze(Net().eval(), X)
    found = foremost(deps, [np.linspace(-1, 1, 8), np.zeros(8)], free(deps))
    live = np.delete(np.arange(8), DEAD)
    assert max(s[list(DEAD)].max() for s in found) < min(s[live].min() for s in found)


def test_weights_stay_as_cut_where_only_they_go() -> None:
    net = Net().eval()
    plan = graphprune.plan(net, 0.5, of="channels", example_inputs=X, effort="balanced", data=[X])
    small = plan.apply()
    live = np.delete(np.arange(8), DEAD)
    assert plan.kept["conv1.weight"][0].tolist() == live.tolist()
    torch.testing.assert_close(small.conv2.weight, net.conv2.weight[live][:, live], rtol=0, atol=0)
    torch.testing.assert_close(small.head.weight, net.head.weight[:, live], rtol=0, atol=0)


def test_what_is_free_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in a row of rounds, the last of which finds nothing more; the first is shared."""
    begun: list[bool] = []

    class Counted(Free):
        def __init__(self, deps: Any, axes: Any = None, bounds: Any = None, gone: Any = None):
            begun.append(gone is None)
            super().__init__(deps, axes, bounds, gone)

    for place in ("importance.free", "pipeline.work", "passes.assume"):
        monkeypatch.setattr(f"graphprune.{place}.Free", Counted)
    graphprune.shrink(Net().eval(), 0.6, of="channels", example_inputs=X, effort="fast", data=[X])
    assert begun == [True, False]


def test_further_channels_are_made_up_for() -> None:
    net = Net().eval()
    plan = graphprune.plan(net, 0.6, of="channels", example_inputs=X, effort="fast", data=[X])
    small = plan.apply()
    gone = np.setdiff1d(np.arange(8), plan.kept["conv2.weight"][0])
    assert set(DEAD) <= set(gone.tolist())
    kept = plan.kept["conv2.weight"][0]
    assert not torch.equal(small.head.weight, net.head.weight[:, torch.as_tensor(kept)])


def _file() -> ModelProto:
    r = np.random.default_rng(0)
    gain, shift = r.uniform(0.5, 1.5, 8), r.normal(size=8)
    gain[list(DEAD)] = shift[list(DEAD)] = 0
    numbers = {
        "w": r.normal(size=(8, 3, 3, 3)),
        "gain": gain,
        "shift": shift,
        "mean": r.normal(size=8) * 0.1,
        "variance": r.uniform(0.5, 1.5, 8),
        "head": r.normal(size=(5, 8)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "gain", "shift", "mean", "variance"], ["n"]),
        helper.make_node("HardSwish", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head"], ["y"], transB=1),
    ]
    weights = {name: array.astype(np.float32) for name, array in numbers.items()}
    return graph(nodes, weights, {"x": ["n", 3, 8, 8]}, {"y": ["n", 5]})


@pytest.mark.parametrize("compensate", [False, True])
def test_files_too(compensate: bool) -> None:
    model = _file()
    data = {"data": X.numpy(), "effort": "fast"} if compensate else {}
    plan = graphprune.plan(model, 0.5, "channels", compensate=compensate, **data)
    small = plan.apply()
    live = np.delete(np.arange(8), DEAD)
    assert plan.kept["w"][0].tolist() == live.tolist()
    held = {t.name: onnx.numpy_helper.to_array(t) for m in (small,) for t in m.graph.initializer}
    before = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    np.testing.assert_array_equal(held["head"], before["head"][:, live])
    x = X.numpy()
    np.testing.assert_allclose(run(small, x=x)[0], run(model, x=x)[0], rtol=1e-5, atol=1e-6)


class Recurrent(nn.Module):
    """A recurrent layer some units of which never move from zero."""

    def __init__(self, kind: type[nn.RNNBase], dead: list[str], **how: Any) -> None:
        super().__init__()
        self.rnn = kind(6, 8, batch_first=True, **how)
        self.head = nn.Linear(8 * (2 if self.rnn.bidirectional else 1), 3)
        for name, tensor in self.rnn.named_parameters():
            if any(name.endswith(end) for end in dead):
                with torch.no_grad():
                    tensor.view(-1, 8, *tensor.shape[1:])[:, [2, 5]] = 0.0

    def forward(self, x: torch.Tensor, state: torch.Tensor | None = None) -> torch.Tensor:
        out: torch.Tensor = self.head(self.rnn(x, state)[0])
        return out


@pytest.mark.parametrize(
    ("kind", "how", "dead", "gone"),
    [
        (nn.LSTM, {}, ["l0"], 2),
        (nn.GRU, {}, ["l0"], 2),
        (nn.RNN, {}, ["l0"], 2),
        (nn.LSTM, {"bidirectional": True}, ["l0", "reverse"], 2),
        (nn.LSTM, {"bidirectional": True}, ["l0"], 0),
        (nn.LSTM, {"num_layers": 2}, ["l0", "l1"], 2),
        (nn.LSTM, {"num_layers": 2}, ["l1"], 0),  # the states of both layers are one tensor
        (nn.GRU, {"num_layers": 2}, ["l0"], 0),
    ],
    ids=str,
)  # fmt: skip
def test_units_that_stay_at_zero_are_free(
    kind: type[nn.RNNBase], how: dict[str, Any], dead: list[str], gone: int
) -> None:
    torch.manual_seed(0)
    net, x = Recurrent(kind, dead, **how).eval(), torch.randn(2, 5, 6)
    small = graphprune.compact(net, example_inputs=x)
    assert small.rnn.hidden_size == 8 - gone and type(small) is Recurrent
    torch.testing.assert_close(small(x), net(x))


def test_units_whose_first_state_the_caller_gives_stay() -> None:
    net = Recurrent(nn.GRU, ["l0"]).eval()
    x, state = torch.randn(2, 5, 6), torch.randn(1, 2, 8)
    small = graphprune.compact(net, example_inputs=(x, state))
    assert small.rnn.hidden_size == 8
    torch.testing.assert_close(small(x, state), net(x, state))


def test_columns_of_an_embedding_that_are_zero_are_free() -> None:
    net = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)).eval()
    with torch.no_grad():
        net[0].weight[:, [1, 6]] = 0.0
        net[0].weight[3] = 0.0  # a row is a word, and no channel
    tokens = torch.arange(9)[None].repeat(2, 1)
    small = graphprune.compact(net, example_inputs=tokens)
    assert tuple(small[0].weight.shape) == (9, 6)
    torch.testing.assert_close(small(tokens), net(tokens))
