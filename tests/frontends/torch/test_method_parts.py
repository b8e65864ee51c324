"""Methods as parts, where torch.export can trace no module around what they call."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprune
from graphprune.core.errors import VerifyError
from tests.frontends.torch.test_parts import mask


class Chunked(nn.Module):
    """A method calls two layers, one after the other; the rest branches on its data."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)
        self.wide, self.narrow = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.mix(x)
        return self.feed(y) if y.sum() > -1e9 else y

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(self.wide(x).relu())


def test_methods_are_parts_where_modules_are_not() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Chunked(), Chunked()).double().eval()
    x = torch.randn(4, 8, dtype=torch.float64)
    plan = graphprune.plan(model, 0.4, example_inputs=x, compensate=False)
    small = plan.apply()
    assert "in parts: 0.feed, 0.mix, 1.feed, 1.mix\n" in plan.report.warnings[0]
    assert small[0].wide.out_features < 32 and small[0].mix.out_features == 8
    assert type(small[0]) is Chunked and "feed" not in vars(model[0]) and not plan.report.replaced
    mask(model, plan)
    torch.testing.assert_close(small(x), model(x), rtol=1e-12, atol=1e-12)


def test_what_methods_take_is_recorded_for_compensation() -> None:
    torch.manual_seed(0)
    model, data = Chunked().eval(), torch.randn(256, 8) * torch.linspace(0.1, 2, 8)
    plan = graphprune.plan(model, 0.4, example_inputs=data[:4], data=data, effort="fast")
    plain = graphprune.shrink(
        model, 0.4, example_inputs=data[:4], importance="l2", compensate=False
    )
    with torch.no_grad():
        gaps = [float((m(data) - model(data)).square().mean()) for m in (plan.apply(), plain)]
    assert "from data" in plan.report.compensation and gaps[0] < gaps[1] / 2


class _Elsewhere(Chunked):
    """Other code calls one of the layers that the method calls."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.wide(x).sum()


def test_layers_that_are_called_outside_their_method_too_keep_their_shapes() -> None:
    deps = graphprune.analyze(_Elsewhere().eval(), torch.randn(4, 8))
    assert not deps.groups


class _Storing(Chunked):
    """The method hands the inner layer's outputs on through an attribute."""

    inner: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return self.head(self.inner) if y.sum() > -1e9 else y

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        self.inner = self.wide(x).relu()
        return x + self.narrow(self.inner)


class _Reading(Chunked):
    """The method takes an argument through an attribute, which an earlier pass has set."""

    def __init__(self) -> None:
        super().__init__()
        self.hint = torch.zeros(4, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.hint = self.wide(x).relu()
        return super().forward(x)

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(self.hint)


@pytest.mark.parametrize("kind", [_Storing, _Reading])
def test_what_goes_round_a_method_keeps_its_shape(kind: type[Chunked]) -> None:
    x = torch.randn(4, 8)
    assert not graphprune.analyze(kind().eval(), x).groups
    model = kind().eval()
    model(x)
    assert not graphprune.analyze(model, x).groups


class _Viewing(Chunked):
    """The method's own code holds the inner width."""

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(self.wide(x).view(-1, 32).relu())


def test_sizes_that_the_code_of_a_method_gives_stay() -> None:
    deps = graphprune.analyze(_Viewing().eval(), torch.randn(4, 8))
    assert not deps.groups
    assert "its size is up to the code of a method" in {lock.reason for lock in deps.locks}


class _Measuring(Chunked):
    """Other code counts on the width of a layer, which it looks up by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        assert self.wide.out_features == 32
        return y


def test_a_model_that_does_not_run_as_a_whole_is_an_error_that_says_so() -> None:
    with pytest.raises(VerifyError, match="does not run as a whole"):
        graphprune.shrink(
            _Measuring().eval(), 0.4, example_inputs=torch.randn(4, 8), compensate=False
        )
