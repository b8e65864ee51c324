"""Training with most single weights at zero."""

from __future__ import annotations

import copy

import pytest
import torch

from graphprune import OptionError
from graphprune.core.errors import GraphPruneError
from graphprune.training import Schedule, SparseTraining
from tests.training.nets import INPUTS, LABELS, cnn, train

NAMES = ["0.weight", "3.weight", "8.weight"]


def _check(model: torch.nn.Sequential, sparse: SparseTraining) -> None:
    """Masked weights and the optimizer's memory of them are zero."""
    for name, mask in sparse.masks.items():
        weight = model.get_parameter(name)
        assert not weight[~mask].any()
        held = sparse.optimizer.state[weight]["momentum_buffer"]
        assert not held[~mask].any()


@pytest.mark.parametrize("method", ["gradual", "rigl", "set", "fixed"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_weights_stay_at_zero_and_the_sparsity_is_met(method: str, pattern: str) -> None:
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    schedule = Schedule(0.2, 0.8, 2, 10, 2)
    sparse = SparseTraining(model, schedule, method, pattern=pattern, example_inputs=INPUTS[:2])
    sparse.attach(optimizer)
    assert list(sparse.masks) == NAMES
    first = copy.deepcopy(sparse.masks)
    for _ in range(12):
        train(model, optimizer, 1)
        _check(model, sparse)
    moved = any(not torch.equal(first[name], sparse.masks[name]) for name in NAMES)
    if pattern == "unstructured":
        assert sparse.sparsity() == pytest.approx(0.8, abs=2e-3)
        assert moved == (method != "fixed")
    else:
        blocks = sparse.masks["3.weight"].movedim(1, -1).reshape(-1, 4)
        assert (blocks.sum(1) == 2).all()
        assert sparse.masks["0.weight"].all()  # three inputs: no blocks of four
        assert moved == (method in ("rigl", "set"))


def test_rigl_opens_where_the_gradient_is_largest() -> None:
    """One move: the smallest open weights close, the largest gradients open, at zero."""
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    sparse = SparseTraining(
        model, Schedule(0, 0.5, 1, 4, 1), "rigl", example_inputs=INPUTS[:2]
    ).attach(optimizer)
    before = {name: mask.clone() for name, mask in sparse.masks.items()}
    weights = model[3].weight.detach().clone()
    model.train()
    loss = torch.nn.functional.cross_entropy(model(INPUTS), LABELS)
    loss.backward()
    gradient = model[3].weight.grad.clone()
    optimizer.step()
    mask = before["3.weight"]
    share = 0.3 / 2 * (1 + torch.cos(torch.tensor(torch.pi / 4)))
    number = int(share * int(mask.sum()))
    closed = mask & ~sparse.masks["3.weight"]
    opened = ~mask & sparse.masks["3.weight"]
    assert int(closed.sum()) == int(opened.sum()) == number > 0
    assert weights[closed].abs().max() <= weights[mask & ~closed].abs().min()
    outside = ~mask & ~opened
    assert gradient[opened].abs().min() >= gradient[outside].abs().max()
    assert not model[3].weight[opened].any()


@pytest.mark.parametrize("start", ["snip", "grasp", "synflow", "random"])
def test_masks_before_training(start: str) -> None:
    model = cnn()
    sparse = SparseTraining(
        model, Schedule(final=0.5), "fixed", start=start, data=(INPUTS, LABELS), spread="uniform",
        example_inputs=INPUTS[:2],
    )  # fmt: skip
    for name, mask in sparse.masks.items():
        assert float(mask.float().mean()) == pytest.approx(0.5, abs=0.01), name
    if start == "snip":
        reference = cnn().eval()
        torch.nn.functional.cross_entropy(reference(INPUTS), LABELS).backward()
        scores = (reference[8].weight * reference[8].weight.grad).abs()
        assert torch.equal(sparse.masks["8.weight"], scores >= scores.flatten().topk(32).values[-1])


def test_erk_keeps_more_of_small_layers_and_meets_the_whole() -> None:
    sparse = SparseTraining(cnn(), Schedule(final=0.8), "rigl", example_inputs=INPUTS[:2])
    shares = {name: float(mask.float().mean()) for name, mask in sparse.masks.items()}
    assert shares["8.weight"] == 1.0 and shares["0.weight"] > shares["3.weight"]
    assert sparse.sparsity() == pytest.approx(0.8, abs=1e-3)


def test_training_goes_on_from_a_state() -> None:
    schedule = Schedule(0.2, 0.7, 0, 8, 2)
    runs = []
    for _ in range(2):
        model = cnn()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
        sparse = SparseTraining(model, schedule, "set", example_inputs=INPUTS[:2], seed=3)
        runs.append((model, optimizer, sparse.attach(optimizer)))
    one, two = runs
    train(one[0], one[1], 5)
    saved = copy.deepcopy([held.state_dict() for held in one])
    for held, state in zip(two, saved, strict=True):
        held.load_state_dict(state)
    assert train(*one[:2], 4) == train(*two[:2], 4)
    saved[2]["masks"].pop("0.weight")
    with pytest.raises(GraphPruneError, match="no mask for 0"):
        two[2].load_state_dict(saved[2])


def test_what_cannot_be_meant_is_refused() -> None:
    model = cnn()
    for options, words in (
        ({"method": "rigle"}, "no method"),
        ({"start": "snap"}, "no start"),
        ({"spread": "erc"}, "no spread"),
        ({"pattern": "4:2"}, "pattern"),
        ({"pattern": "block"}, "while training"),
        ({"keep": "*"}, "keep= names all"),
    ):
        with pytest.raises(OptionError, match=words):
            SparseTraining(model, Schedule(), example_inputs=INPUTS[:2], **options)
    with pytest.raises(GraphPruneError, match="needs data"):
        SparseTraining(model, Schedule(), start="snip", example_inputs=INPUTS[:2])
