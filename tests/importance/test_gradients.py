"""Criteria that follow gradients, against numbers worked out by hand.

For y = B A x with x = (1, 2), A = ((1, 1), (2, 0)), B = (3, 1): h = A x = (3, 2), y = 11.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
from graphprune import GraphPruneError
from graphprune.importance import Context
from graphprune.importance.score import score
from graphprune.statistics.batches import read_batches

X = torch.tensor([[1.0, 2.0]])


def net() -> nn.Sequential:
    made = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        made[0].weight.copy_(torch.tensor([[1.0, 1.0], [2.0, 0.0]]))
        made[1].weight.copy_(torch.tensor([[3.0, 1.0]]))
    return made


def scores(importance: str, loss: Any, data: Any = X) -> np.ndarray:
    model = net()
    deps = graphprune.analyze(model, torch.ones(2, 2))
    inputs = ((torch.ones(2, 2),), {})
    batches = () if data is None else read_batches(data, model)
    (found,) = score(deps, importance, Context(deps, model, inputs, batches, loss))
    return found


def linear(output: torch.Tensor, labels: Any) -> torch.Tensor:
    return output.sum()


def quadratic(output: torch.Tensor, labels: Any) -> torch.Tensor:
    return 0.5 * (output - 11).square().sum()


def test_taylor_squares_the_change_that_each_slice_makes() -> None:
    # Zeroing row i of A, or column i of B, changes y by B_i h_i = (9, 2).
    np.testing.assert_allclose(scores("taylor", linear), [81 + 81, 4 + 4])


def test_taylor_averages_the_squares_over_batches() -> None:
    data = [X, 2 * X]
    np.testing.assert_allclose(scores("taylor", linear, data), [2 * 81 * 2.5, 2 * 4 * 2.5])


def test_snip_sums_the_absolute_products() -> None:
    # |g w| is (3, 6), (2, 0) for A and (9, 2) for B.
    np.testing.assert_allclose(scores("snip", linear), [9 + 9, 2 + 2])


def test_fisher_is_half_the_mean_square_over_single_samples() -> None:
    expected = np.array([0.5 * (9 + 36 + 81), 0.5 * (4 + 0 + 4)])
    np.testing.assert_allclose(scores("fisher", linear), expected)
    both = torch.cat([X, -X])  # in a batch, the gradients of these two would cancel
    np.testing.assert_allclose(scores("fisher", linear, both), expected)


def test_grasp_is_the_product_with_the_hessian_times_the_gradient() -> None:
    # (Hg) is x_j h_i for A and B_i |x|² for B; times w and summed: h_i² and 5 B_i².
    np.testing.assert_allclose(scores("grasp", linear), [9 + 45, 4 + 5])


def test_obd_estimates_the_diagonal_of_the_hessian(monkeypatch: pytest.MonkeyPatch) -> None:
    # At the minimum of (y - 11)²/2 the diagonal is (B_i x_j)² for A and h_i² for B.
    monkeypatch.setattr("graphprune.importance.gradients.HESSIAN_PROBES", 32)
    expected = [0.5 * (9 + 36 + 81), 0.5 * (4 + 0 + 4)]
    np.testing.assert_allclose(scores("obd", quadratic, [X] * 100), expected, rtol=0.2)


def test_synflow_needs_no_data() -> None:
    # |A| 1 = (2, 2): the flow through index i is 2 |B_i|, for A and for B; scaled to at most one.
    np.testing.assert_allclose(scores("synflow", None, None), np.array([12, 4]) / 6)


def test_cross_entropy_on_labels_is_the_default_loss() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
    x, y = torch.randn(10, 3), torch.randint(0, 4, (10,))
    deps = graphprune.analyze(model)
    context = Context(deps, model, batches=read_batches([(x, y)], model))
    (found,) = score(deps, "snip", context)
    F.cross_entropy(model(x), y).backward()
    first, bias, second = (
        (p.grad * p).detach().abs() for p in (model[0].weight, model[0].bias, model[2].weight)
    )
    np.testing.assert_allclose(found, first.sum(1) + bias + second.sum(0), rtol=1e-5)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(GraphPruneError, match="importance='taylor' needs data"):
        scores("taylor", linear, None)
    with pytest.raises(GraphPruneError, match="no labels"):
        scores("taylor", None)
    with pytest.raises(GraphPruneError, match="scalar"):
        scores("taylor", lambda output, labels: output.repeat(1, 2))
    with pytest.raises(GraphPruneError, match="not finite"):
        scores("taylor", lambda output, labels: output.sum() / 0)
    with pytest.raises(GraphPruneError, match="cross-entropy does not fit"):
        scores("snip", None, (X, torch.ones(1, 7)))


@pytest.mark.parametrize("importance", ["taylor", "snip", "fisher", "obd", "grasp", "synflow"])
def test_the_model_stays_as_it_is_even_when_interrupted(importance: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    ).train()  # fmt: skip
    model[0].weight.requires_grad_(False)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    data = (torch.randn(6, 3, 8, 8), torch.randint(0, 4, (6,)))
    plan = graphprune.plan(model, 0.5, data=data, importance=importance, effort="fast")
    assert len(plan.kept["0.weight"][0]) < 16

    def interrupt(output: Any, labels: Any) -> torch.Tensor:
        raise KeyboardInterrupt

    if importance != "synflow":
        with pytest.raises(KeyboardInterrupt):
            graphprune.plan(
                model, 0.5, data=data, importance=importance, loss=interrupt, effort="fast"
            )
    assert all(p.grad is None for p in model.parameters())
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * 5
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize("importance", ["obd", "grasp"])
def test_second_derivatives_pass_through_fused_attention(importance: str) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(16 * 4, 3))
    data = (torch.randn(4, 4, 16), torch.randint(0, 3, (4,)))
    assert (
        graphprune.plan(
            model, 0.3, data=data, importance=importance, compensate=False
        ).report.achieved
        > 0.2
    )


def test_a_dead_channel_goes_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias.fill_(1.0)
        model[0].bias[5] = -100.0  # never active, though its weights are as large as any
    data = (torch.randn(64, 4), torch.randint(0, 3, (64,)))
    for importance in ("taylor", "snip", "fisher", "activation", "apoz", "hrank"):
        plan = graphprune.plan(model, 0.12, data=data, importance=importance, compensate=False)
        assert 5 not in plan.kept["0.weight"][0].tolist(), importance
