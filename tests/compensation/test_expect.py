"""Correlations in closed form, against what is measured on inputs of the kind that they assume."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune
from graphprune.compensation import compensate as compensate_pass
from graphprune.compensation.consumers import find_consumers
from graphprune.compensation.expect import expect
from graphprune.core.groups import Dependencies
from tests.frontends.onnx.exports import export

CHANNELS = 12


def noise(number: int = 64, side: int = 12) -> Tensor:
    """Independent pixels in independent channels."""
    return torch.randn(number, CHANNELS, side, side)


def settled(model: nn.Module) -> nn.Module:
    """A model whose batch norms have gains and offsets, and the statistics of noise."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm):
            layer.momentum = None
            with torch.no_grad():
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.uniform_(-0.5, 0.5)
    with torch.no_grad():
        model.train()(noise(256))
    return model.eval()


def last_read(deps: Dependencies) -> Tensor | None:
    """What is expected of the value that the last consumer reads."""
    consumer = list(find_consumers(deps).by_op.values())[-1][0]
    found = expect(deps, [(consumer.value, consumer.channel)])
    return found.get((consumer.value, consumer.channel))


def measured(model: nn.Module, reader: nn.Module) -> Tensor:
    """Correlations of what a layer reads, on many pictures."""
    seen: list[Tensor] = []
    handle = reader.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(noise(256))
    handle.remove()
    return torch.corrcoef(seen[0].movedim(1, 0).flatten(1))


class Halves(nn.Module):
    """Two branches of independent channels, joined or added."""

    def __init__(self, joined: bool) -> None:
        super().__init__()
        self.joined = joined
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.a, self.b = nn.Conv2d(6, 8, 1), nn.Conv2d(6, 8, 1)
        self.head = nn.Conv2d(16 if joined else 8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, y = self.norm(x).chunk(2, 1)
        x, y = self.a(F.silu(x)), self.b(F.silu(y))
        return self.head(torch.cat([F.silu(x), F.silu(y)], 1) if self.joined else F.silu(x + y))


class Perceptron(nn.Module):
    """Channels last, behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(CHANNELS), nn.Conv2d(CHANNELS, 8, 1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        return self.head(F.gelu(self.up(x)))


class Gated(nn.Module):
    """x times a function of x, and times one number for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.Conv2d(CHANNELS, 8, 1))
        self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x * torch.sigmoid(x)
        return self.head(x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True))))


class Shuffled(nn.Module):
    """Half of the channels, in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.Conv2d(CHANNELS, 16, 1), nn.SiLU())
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = (x := self.stem(x)).shape
        x = x.view(n, 2, 8, h, w).transpose(1, 2).reshape(n, 16, h, w)
        return self.head(x.chunk(2, 1)[1])


def _stack(*layers: nn.Module) -> Callable[[], nn.Module]:
    """A net whose weights are drawn when it is asked for, behind the test's seed."""
    ends = nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 4, 1)

    def build() -> nn.Module:
        net = nn.Sequential(nn.BatchNorm2d(CHANNELS), *layers, *ends)
        for layer in net:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        return net

    return build


NETS: dict[str, Callable[[], nn.Module]] = {
    "pointwise": _stack(nn.Hardtanh(), nn.Conv2d(CHANNELS, 8, 1)),
    "taps": _stack(nn.Hardtanh(), nn.Conv2d(CHANNELS, 8, 3)),
    "grouped": _stack(nn.PReLU(CHANNELS), nn.Conv2d(CHANNELS, 8, 3, groups=2)),
    "depthwise": _stack(nn.Conv2d(CHANNELS, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8)),
    "transposed": _stack(nn.Tanh(), nn.ConvTranspose2d(CHANNELS, 8, 2)),
    "pooled": _stack(nn.Conv2d(CHANNELS, 8, 1), nn.LeakyReLU(0.5), nn.AvgPool2d(2)),
    "layer norm": Perceptron,
    "group norm": lambda: nn.Sequential(
        nn.GroupNorm(2, CHANNELS), nn.Conv2d(CHANNELS, 8, 3), nn.Mish(), nn.Conv2d(8, 4, 1)
    ),
    "joined": lambda: Halves(joined=True),
    "added": lambda: Halves(joined=False),
    "gated": Gated,
    "shuffled": Shuffled,
}


@pytest.mark.parametrize("name", NETS)
def test_correlations_are_those_that_are_measured_on_noise(name: str):
    torch.manual_seed(0)
    model = settled(NETS[name]())
    deps = graphprune.analyze(model, noise(2))
    found = last_read(deps)
    assert found is not None
    reader = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)][-1]
    wanted = measured(model, reader)
    away = float((wanted - torch.eye(len(wanted))).norm())
    assert float((found - wanted).norm()) < 0.6 * away
    assert float((found - wanted).abs().max()) < 0.4


def test_onnx_files_tell_the_same():
    torch.manual_seed(0)
    model = settled(NETS["joined"]())
    here = last_read(graphprune.analyze(model, noise(2)))
    there = last_read(graphprune.analyze(export(model, (noise(2),))))
    assert there is not None and here is not None
    assert torch.allclose(there, here, atol=1e-3)


def test_nothing_is_expected_of_what_no_norm_leads_to():
    deps = graphprune.analyze(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(2, 6)
    )
    assert last_read(deps) is None


def test_nothing_is_expected_far_behind_the_last_norm():
    layers = [nn.Conv2d(CHANNELS, CHANNELS, 1) for _ in range(4)]
    for deep in (1, 2, 3):
        model = settled(nn.Sequential(nn.BatchNorm2d(CHANNELS), *layers[: deep + 1]))
        found = last_read(graphprune.analyze(model, noise(2)))
        assert (found is None) == (deep > 2)


class Rooted(nn.Module):
    """A root of what is never negative, though normal channels would be."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm2d(CHANNELS), nn.Conv2d(CHANNELS, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sqrt(self.norm(x)))


def test_nothing_is_expected_of_what_is_no_number():
    assert last_read(graphprune.analyze(Rooted().eval(), noise(2).abs())) is None


def test_what_is_expected_makes_up_for_inputs_that_are_few(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = settled(
        nn.Sequential(
            nn.Conv2d(CHANNELS, 48, 3), nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 48, 3),
            nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 10, 3),
        )
    )  # fmt: skip
    few, held = noise(2, 8), noise(64)
    errors = []
    for knows in (True, False):
        if not knows:
            monkeypatch.setattr(compensate_pass, "add_expected", lambda *args: None)
        options = {"importance": "l2", "data": [few], "example_inputs": few, "effort": "fast"}
        small = graphprune.shrink(model, 0.5, **options)
        with torch.no_grad():
            errors.append(float((small(held) - model(held)).square().mean()))
    assert errors[0] < 0.9 * errors[1]
