"""Penalties that close coupled groups while a network trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune import BudgetError, OptionError
from graphprune.core.errors import GraphPruneError
from graphprune.training import L1, GroupLasso, ScaleL1
from tests.training.nets import INPUTS, LABELS, cnn, train


def _numbers(model: nn.Sequential, index: int) -> list[torch.Tensor]:
    """All that one channel of the first convolution owns."""
    conv, norm, reader = model[0], model[1], model[3]
    held = [conv.weight[index], conv.bias[index], norm.weight[index], norm.bias[index]]
    return [x.flatten() for x in (*held, reader.weight[:, index])]


def test_the_group_lasso_is_the_sum_of_norms_of_what_indices_own() -> None:
    model = cnn().double()
    penalty = GroupLasso(model, 0.5, example_inputs=INPUTS[:2].double())
    group = penalty.coupled.groups[0]
    norms = torch.stack([torch.cat(_numbers(model, i)).norm() for i in range(12)])
    assert torch.allclose(penalty.norms(group), norms)
    width = len(torch.cat(_numbers(model, 0)))
    second = penalty.coupled.groups[1]
    rest = penalty.coupled.width(second) ** 0.5 * penalty.norms(second).detach().sum()
    assert float(penalty().detach()) == pytest.approx(
        float(0.5 * (width**0.5 * norms.detach().sum() + rest))
    )


@pytest.mark.parametrize("kind", [GroupLasso, L1, ScaleL1])
def test_attached_it_is_the_same_as_in_the_loss(kind: Any) -> None:
    by_hook, by_hand = cnn(), cnn()
    one, two = (torch.optim.SGD(m.parameters(), 0.1) for m in (by_hook, by_hand))
    kind(by_hook, 1e-2, example_inputs=INPUTS[:2]).attach(one)
    penalty = kind(by_hand, 1e-2, example_inputs=INPUTS[:2])
    for _ in range(3):
        train(by_hook, one, 1)
        two.zero_grad()
        (nn.functional.cross_entropy(by_hand.train()(INPUTS), LABELS) + penalty()).backward()
        two.step()
    for a, b in zip(by_hook.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_proximal_step_makes_exact_zeros_that_go_for_nothing() -> None:
    model = cnn()
    with torch.no_grad():
        for index in range(5):
            for held in (model[0].weight[index], model[1].weight[index : index + 1],
                         model[3].weight[:, index]):  # fmt: skip
                held.mul_(0.05)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    penalty = GroupLasso(
        model, 0.01, proximal=True, target=0.4, every=5, example_inputs=INPUTS[:2]
    ).attach(optimizer)
    train(model, optimizer, 60)
    closed = penalty.closed()
    assert penalty.met and penalty.strength > 0.01
    zeros = int((model[0].weight.flatten(1).norm(dim=1) == 0).sum())
    assert zeros == closed["0.weight[0]"] > 0
    keep = [12 - zeros, 16 - closed["3.weight[0]"]]
    model.eval()
    plan = graphprune.plan(
        model, importance="group_norm", example_inputs=INPUTS[:2], compensate=False,
        ratios={"0": zeros / 12, "3": closed["3.weight[0]"] / 16}, round_to=1,
    )  # fmt: skip
    small = plan.apply()
    assert [small[0].out_channels, small[3].out_channels] == keep
    assert torch.allclose(small(INPUTS), model(INPUTS), atol=1e-5)


def test_scales_alone_are_driven_to_zero() -> None:
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    before = model[1].weight.abs().sum()
    ScaleL1(model, 0.5, example_inputs=INPUTS[:2]).attach(optimizer)
    train(model, optimizer, 20)
    assert model[1].weight.abs().sum() < 0.7 * before


def test_gradients_of_micro_batches_and_scaled_ones_meet_the_penalty_once() -> None:
    """Accumulation and a `GradScaler`: the penalty is added to complete, unscaled gradients."""
    plain, scaled = cnn(), cnn()
    for model in (plain, scaled):
        model.eval()  # no batch statistics: halves of a batch give the same gradient
    one, two = (torch.optim.SGD(m.parameters(), 0.1) for m in (plain, scaled))
    for model, optimizer in ((plain, one), (scaled, two)):
        GroupLasso(model, 1e-2, example_inputs=INPUTS[:2]).attach(optimizer)
    nn.functional.cross_entropy(plain(INPUTS), LABELS).backward()
    one.step()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for part in (slice(0, 16), slice(16, 32)):
        loss = nn.functional.cross_entropy(scaled(INPUTS[part]), LABELS[part]) / 2
        scaler.scale(loss).backward()
    scaler.step(two)
    scaler.update()
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_state_goes_on_and_another_is_refused() -> None:
    model = cnn()
    penalty = GroupLasso(model, 1e-3, target=0.5, every=1, example_inputs=INPUTS[:2])
    penalty.attach(torch.optim.SGD(model.parameters(), 0.1))
    train(model, penalty.optimizer, 2)
    fresh = GroupLasso(model, 1e-3, target=0.5, every=1, example_inputs=INPUTS[:2])
    fresh.load_state_dict(penalty.state_dict())
    assert fresh.strength == penalty.strength > 1e-3 and fresh.steps == 2
    with pytest.raises(GraphPruneError, match="no state of L1"):
        L1(model, 1e-3, example_inputs=INPUTS[:2]).load_state_dict(penalty.state_dict())


def test_values_that_cannot_be_meant_are_refused() -> None:
    model = cnn()
    for options, words in (
        ({"strength": -1.0}, "strength"),
        ({"strength": 1.0, "target": 1.5}, "target"),
        ({"strength": 1.0, "every": 0}, "every"),
    ):
        with pytest.raises(OptionError, match=words):
            GroupLasso(model, example_inputs=INPUTS[:2], **options)  # type: ignore[arg-type]
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(OptionError, match="GroupLasso"):
        ScaleL1(plain, 1.0)
    with pytest.raises(GraphPruneError, match="no channel"):
        GroupLasso(nn.Linear(4, 4), 1.0)
    with pytest.raises(OptionError, match="no cost 'watts'"):
        GroupLasso(model, 1.0, target=0.5, of="watts", example_inputs=INPUTS[:2])


OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1),
    "adam": lambda p: torch.optim.Adam(p, 1e-2),
}


@pytest.mark.parametrize("optimizing", OPTIMIZERS)
@pytest.mark.parametrize("kind", [GroupLasso, L1, ScaleL1])
def test_with_a_target_all_that_is_to_go_is_closed_and_no_more(kind: Any, optimizing: str) -> None:
    model = cnn()
    optimizer = OPTIMIZERS[optimizing](model.parameters())
    plans: list[Any] = []

    def look(*_: Any) -> None:
        plans.append(
            graphprune.plan(
                model, 0.5, importance=kind.criterion, compensate=False, example_inputs=INPUTS[:2]
            )
        )

    handle = optimizer.register_step_post_hook(look)  # it comes before the penalty's own
    penalty = kind(model, 0.01, target=0.5, every=1, example_inputs=INPUTS[:2]).attach(optimizer)
    train(model, optimizer, 1)
    handle.remove()
    train(model, optimizer, 80)  # far longer than it takes: a strength that grew closes no more
    gone = {
        edit.name: edit.size - (edit.size if edit.keep is None else len(edit.keep))
        for edit in plans[0].groups
    }
    assert penalty.proximal and penalty.met
    assert penalty.closed() == gone and 0 < sum(gone.values()) < 28
    grown = penalty.strength
    train(model, optimizer, 4)
    assert penalty.strength == grown


def test_with_data_what_loses_least_on_it_is_pressed() -> None:
    model = cnn()
    seen: dict[bool, list[dict[str, int]]] = {False: [], True: []}
    options: dict[str, Any] = {"example_inputs": INPUTS[:2]}

    def look(*_: Any) -> None:
        norms = {"importance": "group_norm", "compensate": False}
        for known, more in ((False, norms), (True, {"data": INPUTS})):
            found = graphprune.plan(model, 0.6, **options, **more)
            seen[known].append({
                edit.name: edit.size - (edit.size if edit.keep is None else len(edit.keep))
                for edit in found.groups
            })  # fmt: skip

    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    handle = optimizer.register_step_post_hook(look)
    penalty = GroupLasso(model, 0.1, target=0.6, every=1, data=INPUTS, **options).attach(optimizer)
    train(model, optimizer, 1)
    handle.remove()
    train(model, optimizer, 60)
    assert penalty.met and penalty.closed() == seen[True][0] != seen[False][0]
    small = graphprune.shrink(
        model.eval(), 0.6, importance="group_norm", compensate=False, **options
    )
    assert torch.allclose(small(INPUTS), model(INPUTS), atol=1e-5)
    with pytest.raises(OptionError, match="target= too"):
        GroupLasso(cnn(), 0.1, data=INPUTS, **options)


def test_groups_without_scales_stay_whole() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    penalty = ScaleL1(model, 0.1, target=0.4, every=2, example_inputs=INPUTS[:2]).attach(optimizer)
    train(model, optimizer, 60)
    closed = penalty.closed()
    assert penalty.met and closed["0.weight[0]"] > 0 and closed["3.weight[0]"] == 0
    beyond = ScaleL1(model, 0.1, target=0.95, every=1, example_inputs=INPUTS[:2])
    beyond.attach(torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(BudgetError):
        train(model, beyond.optimizer, 1)


@pytest.mark.parametrize("kind", [GroupLasso, L1, ScaleL1])
def test_a_target_without_the_proximal_step_is_refused(kind: Any) -> None:
    with pytest.raises(OptionError, match="proximal step"):
        kind(cnn(), 0.01, proximal=False, target=0.5, example_inputs=INPUTS[:2])
    with pytest.raises(OptionError, match="strength=0"):
        kind(cnn(), 0, target=0.5, example_inputs=INPUTS[:2])
