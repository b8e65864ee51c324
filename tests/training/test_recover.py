"""Distillation from the model that a smaller one was made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from graphprune import OptionError
from graphprune.core.batch import Batch
from graphprune.core.errors import GraphPruneError
from graphprune.training import distillation, recover
from graphprune.training.distil import feature_loss, layer_map
from graphprune.training.shuffled import Shuffled
from tests.training.nets import INPUTS, LABELS, cnn


def test_outputs_come_nearer_and_nothing_given_changes(pair: tuple[Any, Any]) -> None:
    model, small = pair
    states = [{k: v.clone() for k, v in m.state_dict().items()} for m in pair]
    seen: list[float] = []
    better = recover(
        small, model, INPUTS, epochs=15, batch_size=8, rate=5e-3,
        callback=lambda step, loss: seen.append(loss),
    )  # fmt: skip
    done = better.graphprune_recovery
    assert done.after < 0.6 * done.before and done.steps == len(seen) == len(done.losses)
    before = nn.functional.mse_loss(small(INPUTS), model(INPUTS))
    assert nn.functional.mse_loss(better(INPUTS), model(INPUTS)) < 0.7 * before
    for held, state in zip(pair, states, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in held.state_dict().items())
    assert type(better) is type(small) and not better.training


def test_labels_count_where_a_loss_is_given(pair: tuple[Any, Any]) -> None:
    model, small = pair
    calls = []

    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls.append(len(labels))
        return nn.functional.cross_entropy(output, labels)

    recover(small, model, (INPUTS, LABELS), epochs=1, batch_size=16, loss=loss)
    assert calls
    named, own = (
        recover(small, model, (INPUTS, LABELS), epochs=1, batch_size=16, loss=given)
        for given in (nn.functional.cross_entropy, True)
    )
    assert own.graphprune_recovery.losses == named.graphprune_recovery.losses
    without = recover(small, model, (INPUTS, LABELS), epochs=1, batch_size=16, loss=False)
    assert without.graphprune_recovery.losses < own.graphprune_recovery.losses
    with pytest.raises(GraphPruneError, match="needs labels"):
        recover(small, model, INPUTS, loss=loss)


def test_without_gain_the_weights_stay(pair: tuple[Any, Any]) -> None:
    model, small = pair
    same = recover(small, model, INPUTS, epochs=2, rate=0.9, features=False)
    assert same.graphprune_recovery.after == same.graphprune_recovery.before
    assert torch.equal(same[0].weight, small[0].weight)


def test_a_callback_and_seconds_end_it(pair: tuple[Any, Any]) -> None:
    model, small = pair
    once = recover(small, model, INPUTS, batch_size=8, callback=lambda step, loss: step < 2)
    assert once.graphprune_recovery.steps == 2
    brief = recover(small, model, INPUTS, batch_size=8, seconds=0.0)
    assert brief.graphprune_recovery.steps == 1


def test_layers_are_matched_at_the_channels_that_stay(pair: tuple[Any, Any]) -> None:
    model, small = pair
    layers = layer_map(small)
    assert [layer.path for layer in layers] == ["0", "3", "8"]
    first = layers[0]
    assert first.kept is not None and first.dim == 1
    aim = model[0](INPUTS)
    own = small[0](INPUTS)
    assert feature_loss([first], {"0": own}, {"0": aim}) < 1e-10
    assert feature_loss([first], {"0": own + 1}, {"0": aim}) > 0.1
    with pytest.raises(GraphPruneError, match="was not made by graphprune"):
        layer_map(cnn())


def test_the_loss_of_outputs() -> None:
    a, b = torch.randn(8, 5), torch.randn(8, 5)
    assert distillation(a, a) == 0
    soft = [torch.log_softmax(x / 4, -1) for x in (a, b)]
    kl = (soft[1].exp() * (soft[1] - soft[0])).sum(-1).mean()
    apart = (a - b).square().mean() / b.square().mean()
    assert torch.isclose(distillation(a, b, temperature=4.0), 16 * kl + apart)
    one = torch.randn(8, 1)
    assert torch.isclose(distillation(one, 2 * one), torch.tensor(0.25))
    assert distillation({"x": a, "n": torch.arange(3)}, {"x": a, "n": torch.arange(3)}) == 0
    with pytest.raises(GraphPruneError, match="where the teacher gives"):
        distillation(a, b[:, :4])
    with pytest.raises(GraphPruneError, match="floating-point tensors"):
        distillation([a], [a, b])


def test_values_that_cannot_be_meant_are_refused(pair: tuple[Any, Any]) -> None:
    model, small = pair
    with pytest.raises(OptionError, match="epochs"):
        recover(small, model, INPUTS, epochs=0)
    with pytest.raises(OptionError, match="rate"):
        recover(small, model, INPUTS, rate=0)
    with pytest.raises(OptionError, match="share of each weight's norm"):
        recover(small, model, INPUTS, rate=3.0)
    with pytest.raises(GraphPruneError, match="not finite"):
        recover(small, model, (INPUTS, LABELS), loss=lambda out, _: out.sum() * float("nan"))
    with pytest.raises(GraphPruneError, match="at least two samples"):
        recover(small, model, INPUTS[:1])


def test_without_data_the_loss_falls_and_agreement_does_not(pair: tuple[Any, Any]) -> None:
    model, small = pair
    seen: list[float] = []

    def agreement(net: nn.Module) -> float:
        with torch.no_grad():
            return float((net(INPUTS).argmax(1) == model(INPUTS).argmax(1)).float().mean())

    better = recover(
        small, model, epochs=6, batch_size=8, callback=lambda step, loss: seen.append(loss)
    )
    done = better.graphprune_recovery
    assert done.after < 0.7 * done.before and done.losses == seen
    half = len(seen) // 2
    assert sum(seen[half:]) < sum(seen[:half])
    assert agreement(better) >= agreement(small)  # on inputs that it has not seen


@pytest.mark.parametrize("size", [3, 32])
def test_a_step_takes_its_samples_from_any_batches(pair: tuple[Any, Any], size: int) -> None:
    """Batches of three or one of all: a step is of `batch_size`, of other samples each epoch."""
    model, small = pair
    seen: list[torch.Tensor] = []

    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if output.requires_grad:
            seen.append(labels)
        return nn.functional.cross_entropy(output, labels[:, 0])

    marked = torch.stack([LABELS, torch.arange(32)], 1)
    data = list(zip(torch.split(INPUTS, size), torch.split(marked, size), strict=True))
    done = recover(small, model, data, epochs=2, batch_size=8, loss=loss)
    assert done.graphprune_recovery.steps == 6 and [len(x) for x in seen] == [8] * 6
    first, second = (torch.cat(x)[:, 1] for x in (seen[:3], seen[3:]))
    assert sorted(first.tolist()) == sorted(second.tolist()) and len(set(first.tolist())) == 24
    assert first.tolist() != second.tolist()
    assert all(marked[int(i), 0] == y for x in seen for y, i in x)


def test_batches_that_do_not_fit_together_stay_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    shared = torch.eye(4)
    batches = [
        Batch((torch.arange(5),), {}, None, 5), Batch((torch.arange(5, 9),), {}, None, 4),
        Batch((torch.zeros(6, 2),), {}, None, 6), Batch((torch.ones(6, 1), shared), {}, None, 6),
    ]  # fmt: skip
    drawn = [one.batch() for one in Shuffled(batches, 4, generator)()]
    numbers = [x for x in drawn if x.args[0].dim() == 1]
    assert sorted(i for x in numbers for i in x.args[0].tolist()) != list(range(9))
    assert sorted(x.samples for x in numbers) == [4, 4]  # the ninth would be alone
    assert all(x.args[1] is shared for x in drawn if len(x.args) == 2)
    assert sorted(x.samples for x in drawn if x.args[0].dim() == 2) == [2, 2, 4, 4]


def test_an_accelerator_trains_as_the_loop_alone(pair: tuple[Any, Any]) -> None:
    accelerate = pytest.importorskip("accelerate")
    model, small = pair
    options: dict[str, Any] = {"epochs": 2, "batch_size": 8}
    alone = recover(small, model, INPUTS, **options)
    one = recover(small, model, INPUTS, accelerator=accelerate.Accelerator(cpu=True), **options)
    assert one.graphprune_recovery.losses == alone.graphprune_recovery.losses
    assert torch.equal(one(INPUTS), alone(INPUTS)) and type(one) is type(small)
    with pytest.raises(OptionError, match=r"graphprune\[accelerate\]"):
        recover(small, model, INPUTS, accelerator="cuda")
