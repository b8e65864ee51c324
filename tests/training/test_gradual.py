"""Removing channels while a network trains."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune import BudgetError, OptionError
from graphprune.core.errors import GraphPruneError
from graphprune.training import Gradual, Schedule
from tests.training.nets import INPUTS, LABELS, cnn, train

OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 1e-2, weight_decay=1e-3),
    "sgd": lambda p: torch.optim.SGD(p, 1e-1, momentum=0.9),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_physical_pruning_equals_masked_pruning_step_for_step(kind: str) -> None:
    """In float64: what a masked network computes, its optimizer's state too."""
    x = INPUTS.double()
    physical, masked = cnn().double(), cnn().double()
    own, other = (OPTIMIZERS[kind](m.parameters()) for m in (physical, masked))
    gradual = Gradual(physical, Schedule(0.2, 0.6, 3, 9, 3), example_inputs=x[:2]).attach(own)
    kept = [torch.arange(12), torch.arange(16)]  # of the two convolutions, in the whole network
    done = 0
    for _ in range(12):
        (a,), (b,) = train(physical, own, 1, x), train(masked, other, 1, x)
        assert a == pytest.approx(b, rel=1e-9)
        for plan in gradual.plans[done:]:
            for number, group in enumerate(plan["groups"]):
                if group["keep"] is not None:
                    kept[number] = kept[number][torch.tensor(group["keep"])]
        done = len(gradual.plans)
        _mask(masked, other, kept)
    assert done == 3
    first, second = physical[0].weight, masked[0].weight
    assert torch.allclose(first, second[kept[0]], rtol=1e-9)
    for key, held in own.state[physical[3].weight].items():
        if isinstance(held, torch.Tensor) and held.dim():
            wanted = other.state[masked[3].weight][key][kept[1]][:, kept[0]]
            assert torch.allclose(held, wanted, rtol=1e-8, atol=1e-14)


def _mask(model: nn.Sequential, optimizer: torch.optim.Optimizer, kept: list[Any]) -> None:
    """Zero all that the removed channels own, and the optimizer's memory of it."""
    rows = [(0, 0, 0), (1, 0, 0), (3, 0, 1), (4, 0, 1), (3, 1, 0), (8, 1, 1)]
    for layer, dim, group in rows:
        for name, parameter in model[layer].named_parameters():
            if dim < parameter.dim() and not (name == "bias" and dim):
                mask = torch.zeros(parameter.shape[dim], dtype=parameter.dtype)
                mask[kept[group]] = 1
                shape = [1] * parameter.dim()
                shape[dim] = -1
                with torch.no_grad():
                    parameter.mul_(mask.view(shape))
                    for held in optimizer.state.get(parameter, {}).values():
                        if isinstance(held, torch.Tensor) and held.shape == parameter.shape:
                            held.mul_(mask.view(shape))


def test_the_model_object_stays_and_reaches_the_ratio() -> None:
    model = cnn()
    head = model[8]
    before = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.SGD(
        [{"params": model[:8].parameters(), "lr": 0.1}, {"params": head.parameters(), "lr": 0.01}]
    )
    gradual = Gradual(model, Schedule(0, 0.7, 2, 6, 2), example_inputs=INPUTS[:2]).attach(optimizer)
    train(model, optimizer, 8)
    after = sum(p.numel() for p in model.parameters())
    assert 1 - after / before == pytest.approx(0.7, abs=0.03)
    assert gradual.removed == pytest.approx(1 - after / before)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    assert model.training


def test_training_goes_on_from_a_state() -> None:
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = Schedule(0.2, 0.6, 2, 8, 2)
    gradual = Gradual(model, schedule, example_inputs=INPUTS[:2]).attach(optimizer)
    train(model, optimizer, 5)
    saved = copy.deepcopy((gradual.state_dict(), model.state_dict(), optimizer.state_dict()))
    fresh = cnn(seed=3)
    other = torch.optim.Adam(fresh.parameters(), 1e-2)
    again = Gradual(fresh, schedule, example_inputs=INPUTS[:2]).attach(other)
    again.load_state_dict(saved[0])
    fresh.load_state_dict(saved[1])
    other.load_state_dict(saved[2])
    assert train(fresh, other, 5) == train(model, optimizer, 5)
    assert fresh[0].weight.shape == model[0].weight.shape
    with pytest.raises(GraphPruneError, match="fresh Gradual"):
        again.load_state_dict(saved[0])


def test_state_that_cannot_be_cut_is_refused_and_nothing_changes() -> None:
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), 1e-2, momentum=0.9)
    gradual = Gradual(model, Schedule(0, 0.5, 0, 9, 9), example_inputs=INPUTS[:2]).attach(optimizer)
    train(model, optimizer, 1)
    optimizer.state[model[0].weight]["odd"] = torch.zeros(12)
    with pytest.raises(GraphPruneError, match=r"'odd' for 0\.weight"):
        gradual.remove(0.5)
    assert model[0].weight.shape[0] == 12
    train(model, optimizer, 1)


def test_wrapped_and_wrong_things_are_refused() -> None:
    model = cnn()
    with pytest.raises(OptionError, match="Schedule"):
        Gradual(model, 0.5)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"torch\.optim\.Optimizer"):
        Gradual(model, Schedule()).attach(model)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="above final"):
        Schedule(initial=0.8, final=0.5)
    with pytest.raises(OptionError, match="did you mean"):
        Schedule(curve="polynomal")
    with pytest.raises(OptionError, match="optimizer steps"):
        Schedule(every=0)
    gradual = Gradual(model, Schedule()).attach(torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(GraphPruneError, match="attached already"):
        gradual.attach(torch.optim.SGD(model.parameters(), 0.1))


def test_a_schedule_is_due_at_its_steps() -> None:
    schedule = Schedule(0.3, 0.8, 100, 1000, 100)
    due = [step for step in range(1200) if schedule.due(step)]
    assert due == list(range(100, 1001, 100))
    assert schedule.at(50) == 0 and schedule.at(100) == 0.3 and schedule.at(1200) == 0.8
    assert schedule.at(550) == pytest.approx(0.8 - 0.5 * 0.5**3)


def test_averaged_weights_are_cut_by_the_same_plan() -> None:
    """An exponential moving average follows: the plans apply to it as well."""
    model = cnn()
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    schedule = Schedule(0, 0.5, 3, 3, 1)
    gradual = Gradual(model, schedule, example_inputs=INPUTS[:2], also=[average.module])
    gradual.attach(optimizer)
    for _ in range(5):
        train(model, optimizer, 1)
        average.update_parameters(model)
    assert average.module[0].weight.shape == model[0].weight.shape
    assert not torch.equal(average.module[0].weight, model[0].weight)
    assert torch.isfinite(nn.functional.cross_entropy(average(INPUTS), LABELS))


def test_a_compiled_model_is_pruned_in_place() -> None:
    model = cnn()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    Gradual(compiled, Schedule(0, 0.5, 2, 2, 1), example_inputs=INPUTS[:2]).attach(optimizer)
    losses = train(compiled, optimizer, 4)
    assert model[0].weight.shape[0] < 12 and losses[-1] == losses[-1]
    assert isinstance(graphprune.analyze(model, INPUTS[:2]), graphprune.Dependencies)


def test_with_data_each_removal_is_compensated() -> None:
    whole = cnn()
    train(whole, torch.optim.Adam(whole.parameters(), 1e-2), 40)
    wanted = whole.eval()(INPUTS).detach()
    apart = {}
    for data in (None, [INPUTS[:16], INPUTS[16:]]):
        model = copy.deepcopy(whole)
        gradual = Gradual(model, Schedule(0, 0.5, 1, 2, 1), example_inputs=INPUTS[:2], data=data)
        gradual.remove(0.5)
        apart[data is None] = float((model.eval()(INPUTS) - wanted).square().mean().detach())
    assert apart[False] < 0.5 * apart[True]


def test_training_with_data_goes_on_from_a_state() -> None:
    schedule = Schedule(0, 0.5, 1, 4, 1)
    model = cnn()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    options: dict[str, Any] = {"example_inputs": INPUTS[:2], "data": INPUTS}
    gradual = Gradual(model, schedule, **options).attach(optimizer)
    train(model, optimizer, 3)
    saved = copy.deepcopy((gradual.state_dict(), model.state_dict(), optimizer.state_dict()))
    fresh = cnn(seed=3)
    other = torch.optim.Adam(fresh.parameters(), 1e-2)
    again = Gradual(fresh, schedule, **options).attach(other)
    again.load_state_dict(saved[0])
    fresh.load_state_dict(saved[1])
    other.load_state_dict(saved[2])
    assert train(fresh, other, 3) == train(model, optimizer, 3)
    assert again.removed == gradual.removed


def test_what_is_less_than_a_channel_at_the_end_stays() -> None:
    gradual = Gradual(cnn(), Schedule(0, 0.6, 1, 2, 1), example_inputs=INPUTS[:2])
    assert gradual.remove(0.58)
    for _ in range(2):
        gradual.remove(0.6)
    assert gradual.removed == pytest.approx(0.6, abs=0.02)
    with pytest.raises(BudgetError, match="cannot be reached"):
        gradual.remove(0.9999)
