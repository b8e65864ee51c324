"""Operations of one's own that have no backward are descended through by what their rules say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
from graphprune.compensation import calibration
from graphprune.engine.gradients import with_gradients
from graphprune.frontends.torch.execute import TORCH
from graphprune.frontends.torch.lift import lift
from graphprune.testing import check_rule
from tests.own_operation import Own, Plain, rules


@pytest.fixture(autouse=True)
def own_rules() -> Iterator[None]:
    with rules():
        yield


@pytest.mark.parametrize("kind", [Own, Plain])
def test_gradients_are_those_of_the_product(kind: type[Own]) -> None:
    torch.manual_seed(0)
    (op,) = lift(kind(5, 4), ((torch.randn(3, 2, 5),), {})).graph.ops
    tensors = [torch.randn(3, 2, 5), torch.randn(4, 5), torch.randn(4)]
    tensors = [x.double().requires_grad_() for x in tensors]
    (found,) = with_gradients(TORCH.evaluate)(op, tensors, {})
    wanted = F.linear(*tensors)
    torch.testing.assert_close(found, wanted)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), tensors),
        torch.autograd.grad(wanted.square().sum(), tensors),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_rule_is_right() -> None:
    layer = Plain(5, 4)
    assert check_rule(layer, torch.randn(3, 2, 5)) == ["graphprune_tests.plain"]


@pytest.mark.parametrize("training", [False, True])
def test_it_is_pruned_scored_and_compensated_like_a_built_in_operation(
    training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "POLISH_STEPS", 12)
    torch.manual_seed(0)
    layers = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4)
    x, data = torch.randn(4, 8), torch.randn(256, 8)
    found = []
    for kind in (nn.Linear, Plain):
        middle = kind(32, 32)
        middle.load_state_dict(layers[1].state_dict())
        net = nn.Sequential(layers[0], nn.ReLU(), middle, nn.Tanh(), layers[2]).train(training)
        plan = graphprune.plan(net, 0.4, example_inputs=x, data=data, effort="balanced")
        small = plan.apply()
        assert plan.report is not None and plan.report.left == {}
        assert "polished" in plan.report.compensation
        assert plan.report.verification is not None and plan.report.verification.exact
        assert type(small[2]) is kind and small[2].in_features < 32 and small[2].out_features < 32
        assert small.training == training
        with torch.no_grad():
            found.append((plan.kept, (net(data) - small(data)).norm() / net(data).norm()))
    (kept, error), (own_kept, own_error) = found
    assert str(kept) == str(own_kept)
    torch.testing.assert_close(own_error, error, rtol=1e-3, atol=0)
