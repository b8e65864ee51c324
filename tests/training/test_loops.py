"""Methods of training in loops that compile, accumulate, cast or average: as in the plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from graphprune.training import Gates, Gradual, GroupLasso, Schedule, SparseTraining
from graphprune.training.drawn import Gate
from tests.training.nets import INPUTS, LABELS, cnn

STEPS = 8
ALONG = Schedule(initial=0.2, final=0.6, begin=1, end=7, every=2)

METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "gates": lambda net: Gates(net, 0.5, example_inputs=INPUTS[:2], warmup=4),
    "gradual": lambda net: Gradual(net, ALONG, example_inputs=INPUTS[:2]),
    "lasso": lambda net: GroupLasso(net, 0.1, target=0.4, every=2, example_inputs=INPUTS[:2]),
    "penalty": lambda net: GroupLasso(net, 1e-2, example_inputs=INPUTS[:2]),
    "rigl": lambda net: SparseTraining(net, ALONG, "rigl", example_inputs=INPUTS[:2]),
    "magnitude": lambda net: SparseTraining(net, ALONG, example_inputs=INPUTS[:2]),
}


def _plain() -> nn.Module:
    """Without batch norms, whose statistics tell parts of a batch from the whole."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def _trained(
    kind: str, model: nn.Module, *, parts: int = 1, compiled: bool = False, cast: bool = False,
    closed: bool = False, each: Callable[[], None] = lambda: None,
) -> Any:  # fmt: skip
    """Train a model in place; the method."""
    called: Any = torch.compile(model, backend="eager") if compiled else model
    method = METHODS[kind](called)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    method.attach(optimizer)
    model.train()

    def gradients() -> None:
        optimizer.zero_grad()
        for x, y in zip(INPUTS.chunk(parts), LABELS.chunk(parts), strict=True):
            with torch.enable_grad():
                with torch.autocast("cpu", torch.bfloat16, enabled=cast):
                    loss = nn.functional.cross_entropy(called(x), y) / parts
                loss.backward()

    for step in range(STEPS):
        torch.manual_seed(step)
        if closed:
            optimizer.step(gradients)
        else:
            gradients()
            optimizer.step()
        each()
    return method


def _near(one: nn.Module, other: nn.Module, tolerance: float) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert {n: x.shape for n, x in a.items()} == {n: x.shape for n, x in b.items()}
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("kind", METHODS)
def test_a_compiled_model_trains_as_the_plain_one(kind: str) -> None:
    nets = cnn(), cnn()
    _trained(kind, nets[0])
    _trained(kind, nets[1], compiled=True)
    _near(*nets, 1e-5)


@pytest.mark.parametrize("kind", METHODS)
def test_gradients_that_a_closure_makes_are_like_others(kind: str) -> None:
    """As Lightning makes them: within the optimizer's step."""
    nets = cnn(), cnn()
    _trained(kind, nets[0])
    _trained(kind, nets[1], closed=True)
    _near(*nets, 0.0)


@pytest.mark.parametrize("kind", METHODS)
def test_parts_of_a_batch_train_as_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gate, "draw", lambda gate: None)  # each forward pass would draw anew
    nets = _plain(), _plain()
    one, two = _trained(kind, nets[0]), _trained(kind, nets[1], parts=4)
    assert one.steps == two.steps == STEPS
    _near(*nets, 1e-4)


@pytest.mark.parametrize("kind", METHODS)
def test_in_bfloat16_methods_do_what_they_do_in_floats(kind: str) -> None:
    nets = cnn(), cnn()
    one, two = _trained(kind, nets[0]), _trained(kind, nets[1], cast=True)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in nets[1].parameters())
    for name, value in one.scalars().items():
        assert two.scalars()[name] == pytest.approx(value, rel=0.05), name


def test_an_average_has_gates_of_its_own() -> None:
    model, fresh = cnn(), cnn(1)
    nets: list[AveragedModel] = []

    def step() -> None:
        if not nets:  # gates are in the model by now
            nets.append(AveragedModel(model))
        nets[0].update_parameters(model)

    _trained("gates", model, each=step)
    METHODS["gates"](fresh)
    fresh.load_state_dict(nets[0].module.state_dict())
    outputs = [net.eval()(INPUTS) for net in (nets[0], fresh, model)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2], rtol=1e-2)
