"""What newcomers get wrong in their loops, and what they are told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerControl, TrainerState
from transformers.trainer_callback import CallbackHandler

import graphprune
from graphprune import GraphPruneError, OptionError
from graphprune.training import (
    Gates,
    Gradual,
    GroupLasso,
    Schedule,
    SparseTraining,
    for_trainer,
)
from graphprune.training.attached import Attached
from tests.training.nets import INPUTS, cnn, train

GIVEN: dict[str, Any] = {"example_inputs": INPUTS[:2]}
SCHEDULE = Schedule(0.2, 0.5, 2, 6, 2)

METHODS: dict[str, Callable[[nn.Module], Attached]] = {
    "lasso": lambda m: GroupLasso(m, 1e-3, **GIVEN),
    "gates": lambda m: Gates(m, 0.5, **GIVEN),
    "gradual": lambda m: Gradual(m, SCHEDULE, **GIVEN),
    "sparse": lambda m: SparseTraining(m, SCHEDULE, **GIVEN),
}


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)


@pytest.mark.parametrize("name", METHODS)
def test_an_optimizer_of_another_model_is_refused(name: str) -> None:
    method = METHODS[name](cnn())
    with pytest.raises(OptionError, match=r"no parameter of the model.*\.parameters\(\)"):
        method.attach(_sgd(cnn()))


def test_gates_that_have_not_moved_make_no_plan() -> None:
    gates = Gates(cnn(), 0.5, **GIVEN)
    with pytest.raises(GraphPruneError, match=r"no gate has moved.*attach"):
        gates.plan(compensate=False)


def test_gates_that_are_on_their_way_warn(caplog: pytest.LogCaptureFixture) -> None:
    model = cnn()
    optimizer = _sgd(model)
    gates = Gates(model, 0.5, warmup=100, **GIVEN).attach(optimizer)
    train(model, optimizer, 5)
    with caplog.at_level(logging.WARNING, "graphprune"):
        gates.plan(compensate=False)
    assert "train for longer" in caplog.text
    with pytest.raises(OptionError, match="rate is a number above 0"):
        Gates(cnn(), 0.5, rate=-1.0, **GIVEN)


def test_gates_close_within_a_short_warmup() -> None:
    model = cnn()
    optimizer = _sgd(model)
    gates = Gates(model, 0.6, warmup=20, **GIVEN).attach(optimizer)
    train(model, optimizer, 40)
    assert abs(float(gates.left().detach()) - 0.4) < 0.1


@pytest.mark.parametrize("wrapped", [True, False])
def test_averaged_weights_are_looked_through(wrapped: bool) -> None:
    model = cnn()
    average = AveragedModel(model)
    optimizer = _sgd(model)
    also: Any = average if wrapped else [average.module]
    Gradual(model, SCHEDULE, also=also, **GIVEN).attach(optimizer)
    for _ in range(7):
        train(model, optimizer, 1)
        average.update_parameters(model)
    shapes = [[p.shape for p in net.parameters()] for net in (model, average.module)]
    assert shapes[0] == shapes[1] != [p.shape for p in cnn().parameters()]


def test_the_trainer_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    arguments: Any = SimpleNamespace(output_dir=str(tmp_path))
    seen = []
    for step in (0, 3):
        model = cnn()
        optimizer = _sgd(model)
        callback = for_trainer(METHODS["lasso"])
        handler = CallbackHandler([callback], model, None, optimizer, None)
        handler.on_train_begin(arguments, TrainerState(global_step=step), TrainerControl())
        seen.append(callback.methods[0].steps)
        train(model, optimizer, 3)
        handler.on_save(arguments, TrainerState(global_step=3), TrainerControl())
    assert seen == [0, 3]


@pytest.mark.parametrize("name", ["lasso", "sparse"])
def test_widths_that_changed_meanwhile_are_told(name: str) -> None:
    model = cnn()
    optimizer = _sgd(model)
    METHODS[name](model).attach(optimizer)
    METHODS["gradual"](model).attach(optimizer)
    with pytest.raises(GraphPruneError, match=r"other widths.*Gradual"):
        train(model, optimizer, 7)


def test_recovery_of_the_wrong_models_is_refused() -> None:
    model = cnn().eval()
    small = graphprune.shrink(model, 0.5, compensate=False, **GIVEN)
    with pytest.raises(GraphPruneError, match="pass the teacher that it was made of"):
        graphprune.recover(small, small, INPUTS, epochs=1)
    with pytest.raises(OptionError, match="requires_grad_"):
        graphprune.recover(small.requires_grad_(False), model, INPUTS, epochs=1)


def test_the_trainer_goes_on_with_a_model_that_a_method_changed(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    arguments: Any = SimpleNamespace(output_dir=str(tmp_path))
    model = cnn()
    optimizer = _sgd(model)
    callback = for_trainer(METHODS["gradual"])
    handler = CallbackHandler([callback], model, None, optimizer, None)
    handler.on_train_begin(arguments, TrainerState(), TrainerControl())
    train(model, optimizer, 7)
    handler.on_save(arguments, TrainerState(global_step=7), TrainerControl())
    fresh = cnn()
    again = for_trainer(METHODS["gradual"], resume=folder)
    later = CallbackHandler([again], fresh, None, None, None)
    later.on_init_end(arguments, TrainerState(), TrainerControl())
    fresh.load_state_dict(model.state_dict())
    later.optimizer = _sgd(fresh)
    later.on_train_begin(arguments, TrainerState(global_step=7), TrainerControl())
    assert again.methods[0].steps == 7 and again.methods[0].is_attached
    with pytest.raises(GraphPruneError, match="no checkpoint of such a run"):
        for_trainer(METHODS["gradual"], resume=tmp_path)


@pytest.mark.parametrize("state", [None, {}, {"kind": "gates", "steps": 1}])
def test_the_state_of_something_else_is_refused(state: Any) -> None:
    with pytest.raises(GraphPruneError, match="no state of GroupLasso"):
        METHODS["lasso"](cnn()).load_state_dict(state)
