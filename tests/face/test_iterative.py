"""Shrinking in steps: schedules, callbacks, and going on after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune import BudgetError, GraphPruneError
from graphprune.iterative import Step


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 4)
    )


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("schedule", "initial", "expected"),
    [
        ("linear", 0.0, [0.2, 0.4, 0.6]),
        ("linear", 0.2, [0.2, 0.4, 0.6]),
        ("polynomial", 0.0, [0.6 * (1 - (2 / 3) ** 3), 0.6 * (1 - (1 / 3) ** 3), 0.6]),
        ("exponential", 0.0, [1 - 0.4 ** (1 / 3), 1 - 0.4 ** (2 / 3), 0.6]),
    ],
)
def test_every_schedule_removes_what_it_says(
    net: nn.Module, schedule: str, initial: float, expected: list[float]
) -> None:
    seen: list[tuple[float, float]] = []

    def note(model: nn.Module, step: Step) -> None:
        seen.append((step.ratio, 1 - size(model) / size(net)))

    options = {"schedule": schedule, "initial_ratio": initial, "compensate": False}
    small = graphprune.shrink(net, 0.6, steps=3, callback=note, **options)
    assert [ratio for ratio, _ in seen] == pytest.approx(expected)
    assert [found for _, found in seen] == pytest.approx(expected, abs=0.012)
    assert isinstance(small, nn.Sequential)
    assert small(torch.randn(3, 16)).shape == (3, 4)


def test_the_callback_trains_in_place_or_gives_another_model(net: nn.Module) -> None:
    def train(model: nn.Sequential, step: Step) -> nn.Module | None:
        assert step.plan.report is not None
        with torch.no_grad():
            model[0].bias.fill_(float(step.number))
        return nn.Sequential(*model) if step.number == 2 else None

    small = graphprune.shrink(net, 0.5, steps=2, callback=train, compensate=False)
    assert small[0].bias.tolist() == [2.0] * len(small[0].bias)
    assert net[0].bias.abs().max() < 1


def test_interrupted_work_goes_on_behind_the_last_step(net: nn.Module, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    options: dict[str, Any] = {"steps": 3, "schedule": "linear", "effort": "fast"}
    numbers = []

    def interrupted(model: nn.Module, step: Step) -> None:
        if step.number == 3:
            raise KeyboardInterrupt
        numbers.append(step.number)

    with pytest.raises(KeyboardInterrupt):
        graphprune.shrink(net, 0.6, callback=interrupted, state=state, **options)
    small = graphprune.shrink(
        net, 0.6, callback=lambda model, step: numbers.append(step.number), state=state, **options
    )
    assert numbers == [1, 2, 3]
    straight = graphprune.shrink(net, 0.6, **options)
    for a, b in zip(small.parameters(), straight.parameters(), strict=True):
        assert torch.equal(a, b)
    again = graphprune.shrink(net, 0.6, state=state, **options)  # nothing is left to do
    assert size(again) == size(small)


def test_a_state_of_other_work_is_refused(net: nn.Module, tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    options: dict[str, Any] = {"steps": 2, "state": state, "compensate": False}
    graphprune.shrink(net, 0.4, **options)
    with pytest.raises(GraphPruneError, match="another schedule"):
        graphprune.shrink(net, 0.5, **options)
    with pytest.raises(GraphPruneError, match="another schedule"):
        graphprune.shrink(nn.Linear(3, 3), 0.4, **options)
    state.write_bytes(b"no state")
    with pytest.raises(GraphPruneError, match="holds no state"):
        graphprune.shrink(net, 0.4, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is a positive integer"),
        ({"steps": 2, "schedule": "cosine"}, "no schedule 'cosine'"),
        ({"steps": 2, "initial_ratio": 0.7}, "above the final ratio"),
        ({"steps": 2, "initial_ratio": -1}, "initial_ratio is the fraction"),
        ({"steps": 2, "budget": {"macs": 0.5}}, "leave out budget"),
    ],
)
def test_what_cannot_be_meant_is_named(net: nn.Module, options: Any, message: str) -> None:
    with pytest.raises(GraphPruneError, match=message):
        graphprune.shrink(net, 0.5, **options)


def test_a_step_too_small_for_an_index_waits_for_the_next() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    for steps in (12, 40):
        small = graphprune.shrink(net, 0.5, steps=steps, compensate=False, verify=False)
        assert small[0].out_features == 8
    with pytest.raises(BudgetError, match="too small to remove a single index"):
        graphprune.shrink(net, 0.01, steps=3, compensate=False)


def test_what_the_last_step_cannot_reach_is_told_before_the_first_is_trained(
    net: nn.Module,
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a step was trained")

    with pytest.raises(BudgetError, match="cannot be reached"):
        graphprune.shrink(net, 0.9, steps=4, keep=["0"], callback=never, compensate=False)
