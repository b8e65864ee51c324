"""Compensation: exact where channels repeat, honest where nothing can be done."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune
from graphprune.compensation import calibration
from tests.blocks import BLOCKS


def doubled(*weights: tuple[nn.Module, int], width: int) -> None:
    """Make the second half of the channels that some layers produce a copy of the first."""
    half = width // 2
    with torch.no_grad():
        for layer, groups in weights:
            for tensor in layer.state_dict().values():
                if tensor.dim() and tensor.shape[0] == width:
                    parts = tensor.view(groups, width // groups, *tensor.shape[1:])
                    each = half // groups
                    parts[:, each:] = parts[:, :each] * 1.0


class Gated(nn.Module):
    """A squeeze-excite gate: two consumers of one group, one of them behind an average."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 4, 1)
        self.up, self.head = nn.Conv2d(4, 16, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head(x * gate)


class Transposed(nn.Module):
    """A layer like GPT-2's, whose weight is `in x out`."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 16)
        self.weight, self.bias = nn.Parameter(torch.randn(16, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, F.relu(self.a(x)), self.weight)


class Twice(nn.Module):
    """One layer used twice, reading other values each time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.c(F.relu(self.b(F.relu(self.b(F.relu(self.a(x)))))))
        return found


class Siamese(nn.Module):
    """One encoder for two views, batch norms and all."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 5, 3, bias=False), nn.BatchNorm2d(5),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.body(x).relu(), self.body(2 + x.flip(-1)).relu()
        return torch.cat([first, second], 1)


class Mixing(nn.Module):
    """Tokens are mixed for each channel: the channels that go are rows of what mixes them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.tokens, self.head = nn.Linear(6, 16), nn.Linear(9, 9), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.stem(x))
        found: Tensor = self.head(x + F.gelu(self.tokens(x.transpose(1, 2))).transpose(1, 2))
        return found


class Computed(nn.Module):
    """A bias that is put together out of others (BEiT), one that is scaled, one behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 6, 1)
        self.norm = nn.BatchNorm2d(16)
        self.first = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        x = F.relu(self.norm(F.conv2d(x, self.b.weight, self.b.bias * 2)))
        bias = torch.cat([self.first, torch.zeros_like(self.first)])
        return F.conv2d(x, self.c.weight, bias)


def _net(*layers: nn.Module) -> Callable[[], nn.Module]:
    """Layers whose weights are drawn when they are asked for, behind the test's seed."""

    def build() -> nn.Module:
        net = nn.Sequential(*copy.deepcopy(layers))
        for layer in net:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        return net

    return build


def _image() -> Tensor:
    return torch.randn(64, 3, 9, 9)


# Model, its inputs, the layers whose channels are doubled (with groups), and the width.
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], list[tuple[str, int]]]] = {
    "linear": (
        _net(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 5)),
        lambda: torch.randn(64, 6),
        [("0", 1)],
    ),
    "no bias": (
        _net(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5, bias=False)),
        lambda: torch.randn(64, 6),
        [("0", 1)],
    ),
    "addmm": (Transposed, lambda: torch.randn(64, 6), [("a", 1)]),
    "convolution": (
        _net(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 5, 3)),
        _image,
        [("0", 1)],
    ),
    "batch norm": (
        _net(
            nn.Conv2d(3, 16, 3, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 5, 3, bias=False),
            nn.BatchNorm2d(5),
        ),
        _image,
        [("0", 1), ("1", 1)],
    ),
    "depthwise": (
        _net(
            nn.Conv2d(3, 16, 1),
            nn.Conv2d(16, 16, 3, groups=16),
            nn.ReLU(),
            nn.Conv2d(16, 5, 1),
        ),
        _image,
        [("0", 1), ("1", 1)],
    ),
    "grouped": (
        _net(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 6, 3, groups=2)),
        _image,
        [("0", 2)],
    ),
    "transposed": (
        _net(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.ConvTranspose2d(16, 5, 3)),
        _image,
        [("0", 1)],
    ),
    "flatten": (
        _net(nn.Conv2d(3, 16, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 9, 5)),
        _image,
        [("0", 1)],
    ),
    "used twice": (Twice, lambda: torch.randn(64, 6), [("a", 1), ("b", 1)]),
    "siamese": (Siamese, _image, [("body.0", 1), ("body.1", 1)]),
    "token mixing": (Mixing, lambda: torch.randn(64, 9, 6), [("stem", 1)]),
    "computed biases": (Computed, _image, [("a", 1), ("b", 1)]),
    "squeeze-excite": (Gated, _image, [("conv", 1), ("up", 1)]),
}


@pytest.mark.parametrize("case", CASES)
def test_half_of_doubled_channels_cost_nothing(case: str) -> None:
    torch.manual_seed(0)
    build, inputs, layers = CASES[case]
    model = build().double().eval()
    doubled(*((model.get_submodule(name), groups) for name, groups in layers), width=16)
    x = inputs().double()
    ratios = {f"{layers[0][0]}.*": 0.5}
    options = {"example_inputs": x[:2], "ratios": ratios, "round_to": 1, "of": "channels"}
    groups = graphprune.analyze(model, x[:2]).groups
    ratio = groups[0].size / 2 / sum(group.size for group in groups)
    plain = graphprune.shrink(model, ratio, compensate=False, **options)
    plan = graphprune.plan(model, ratio, compensate=True, data=[x], effort="fast", **options)
    small = plan.apply()
    with torch.no_grad():
        wanted, found, lost = model(x), small(x), plain(x)
    assert plan.report is not None
    assert plan.report.left == {}
    assert plan.report.verification is not None
    scale = float(wanted.abs().max())
    assert float((lost - wanted).abs().max()) > 0.05 * scale
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02 * scale)


class Recurrent(nn.Module):
    """A recurrent layer whose states and inputs each stand twice."""

    def __init__(self, kind: type[nn.RNNBase], bias: bool) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 16)
        self.cell = kind(16, 12, bias=bias, batch_first=True)
        self.head = nn.Linear(12, 4)
        with torch.no_grad():
            for tensor in self.embed.parameters():
                tensor[8:] = tensor[:8]
            for tensor in self.cell.parameters():
                gates = tensor.view(-1, 12, *tensor.shape[1:])
                gates[:, 6:] = gates[:, :6]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.cell(torch.tanh(self.embed(x)))[0])
        return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_states_that_go_are_made_up_for(kind: type[nn.RNNBase], bias: bool) -> None:
    torch.manual_seed(0)
    model, x = Recurrent(kind, bias).double().eval(), torch.randn(64, 7, 5).double()
    options = {"example_inputs": x[:2], "ratios": {"*": 0.5}, "round_to": 1, "of": "channels"}
    plain = graphprune.shrink(model, 0.5, compensate=False, **options)
    plan = graphprune.plan(model, 0.5, data=[x], compensate=True, effort="fast", **options)
    small = plan.apply()
    assert small.cell.hidden_size == 6
    assert plan.report is not None
    assert plan.report.left == {}
    with torch.no_grad():
        wanted, found, lost = model(x), small(x), plain(x)
    scale = float(wanted.abs().max())
    assert float((lost - wanted).abs().max()) > 0.05 * scale
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02 * scale)


def test_the_fit_is_that_of_least_squares() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    x = torch.randn(400, 6, dtype=torch.float64)
    small = graphprune.shrink(
        model, 0.5, "channels", example_inputs=x[:2], data=[x], compensate=True, round_to=1
    )
    hidden = small[1](small[0](x)).detach().numpy()
    design = np.concatenate([hidden, np.ones((len(x), 1))], 1)[:256]
    wanted = model(x).detach().numpy()[:256]
    best = np.linalg.lstsq(design, wanted, rcond=None)[0]
    found = small(x).detach().numpy()[:256]
    left = ((wanted - found) ** 2).sum()
    least = ((wanted - design @ best) ** 2).sum()
    assert least <= left <= 1.02 * least


def test_what_cannot_be_compensated_is_named() -> None:
    build, inputs = BLOCKS["tied"]
    plan = graphprune.plan(build(), 0.5, example_inputs=inputs(), compensate=True, effort="fast")
    plan.apply()
    assert plan.report is not None
    assert "its weight serves several operations" in plan.report.left.values()
    assert "its weight serves several operations" in str(plan.report)


# What the consumers of groups differ in; the other blocks are slow.
KINDS = ["residual", "shuffle", "squeeze-excite", "attention", "recurrent", "weight norm"]


@pytest.mark.parametrize(
    "name", [n if n in KINDS else pytest.param(n, marks=pytest.mark.slow) for n in BLOCKS]
)
def test_every_block_stays_finite(name: str) -> None:
    torch.manual_seed(0)
    build, example = BLOCKS[name]
    model, inputs = build().eval(), example()
    plan = graphprune.plan(
        model, 0.4, example_inputs=inputs, compensate=True, effort="fast", verify=False
    )
    small = plan.apply()
    assert all(bool(torch.isfinite(t).all()) for t in small.state_dict().values())
    assert plan.report is not None
    assert plan.report.compensation.startswith("statistics from")


def test_a_computed_bias_is_told_where_no_constant_can_be_added() -> None:
    torch.manual_seed(0)
    model = Computed().eval()
    nn.init.uniform_(model.norm.weight, 0.5, 1.5)
    x = _image()
    plan = graphprune.plan(model, 0.4, example_inputs=x[:2], data=[x], effort="fast")
    plan.apply()
    assert plan.report is not None
    assert plan.report.left == {}
    told = plan.report.compensation
    assert told.count("conv2d") == 1, "the batch norm behind the other takes its constant"
    assert "without a constant where a bias is computed" in told


def test_the_result_depends_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(
        calibration, "POLISH_STEPS", 10
    )  # of the descent, of which more are as random
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    x = torch.randn(2, 3, 8, 8)
    first, again = (graphprune.shrink(model, 0.5, example_inputs=x, seed=3) for _ in range(2))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_untrained_model_is_left_alone_unless_asked() -> None:
    model = BLOCKS["generator"][0]()
    inputs = BLOCKS["generator"][1]()
    plan = graphprune.plan(model, 0.5, example_inputs=inputs)
    assert plan.report is not None
    assert plan.report.compensation.startswith("none: the model looks untrained")
    asked = graphprune.plan(model, 0.5, example_inputs=inputs, compensate=True, effort="fast")
    assert asked.report is not None
    assert asked.report.compensation.startswith("statistics from")


class Helped(nn.Module):
    """A head that only training mode reaches: the model is then captured twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 16), nn.Linear(16, 4)
        self.helper = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = F.relu(self.stem(x))
        return (self.head(x), self.helper(x)) if self.training else self.head(x)


def test_a_head_for_training_does_not_end_compensation():
    torch.manual_seed(0)
    model, x = Helped().eval(), torch.randn(256, 6)
    doubled((model.stem, 1), width=16)
    options = {"example_inputs": x[:2], "data": [x], "round_to": 1, "effort": "fast"}
    small = graphprune.shrink(model, 0.4, **options)
    with torch.no_grad():
        assert torch.allclose(small(x), model(x), atol=1e-2)


@pytest.mark.parametrize(
    ("last", "size"),
    [
        (nn.ConvTranspose2d(16, 3, 4, stride=2, padding=1), 4),
        (nn.ConvTranspose2d(16, 3, 3, stride=2, padding=1, output_padding=1), 4),
        (nn.Conv2d(16, 3, 3, padding=1), 3),
        (nn.Conv2d(16, 3, 3, padding="same", dilation=2), 4),
    ],
    ids=["transposed", "transposed, odd", "padded", "padded to the same size"],
)
def test_constants_count_taps_that_meet_no_input(last: nn.Module, size: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), last)
    data = torch.randn(64, 3, size, size)
    small = graphprune.shrink(
        model, 0.5, example_inputs=data[:2], data=data, effort="fast", compensate=True
    )
    with torch.no_grad():
        apart = (model(data) - small(data)).mean((0, 2, 3)).abs().max()
    assert apart < 0.01
