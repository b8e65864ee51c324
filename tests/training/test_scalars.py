"""Numbers of iterative work: to whatever has `add_scalar`, or to the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune.core.errors import OptionError
from graphprune.training import Gates, Gradual, GroupLasso, Schedule, SparseTraining, recover
from graphprune.training.attached import Attached
from tests.training.nets import INPUTS, cnn, train


class Board:
    """A writer that keeps what it is given, as TensorBoard's takes it: by place."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert type(value) is float
        self.rows.append((name, value, step))

    def of(self, name: str) -> list[tuple[float, int]]:
        return [(value, step) for found, value, step in self.rows if found == name]


GIVEN: dict[str, Any] = {"example_inputs": INPUTS[:2]}
PLANNED = Schedule(initial=0.0, final=0.4, begin=1, end=3, every=1)
METHODS: dict[str, tuple[Callable[[nn.Module], Attached], set[str]]] = {
    "group_lasso": (
        lambda net: GroupLasso(net, 1e-3, **GIVEN), {"strength", "penalty", "closed"}
    ),
    "gates": (lambda net: Gates(net, 0.5, warmup=4, **GIVEN), {"left", "target"}),
    "gradual": (lambda net: Gradual(net, PLANNED, **GIVEN), {"removed", "parameters"}),
    "sparse": (lambda net: SparseTraining(net, PLANNED, **GIVEN), {"sparsity"}),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_methods_tell_how_far_they_are(name: str) -> None:
    make, names = METHODS[name]
    net, board = cnn(), Board()
    method = make(net)
    optimizer = torch.optim.SGD(net.parameters(), 1e-2)
    assert method.attach(optimizer).log(board, every=2) is method
    train(net, optimizer, 5)
    assert {found for found, _, _ in board.rows} == {f"{method.kind}/{each}" for each in names}
    assert sorted({step for _, _, step in board.rows}) == [2, 4]
    if name == "gradual":
        assert board.of("gradual/removed")[-1] == (method.removed, 4)
        assert board.of("gradual/parameters")[-1][0] == sum(p.numel() for p in net.parameters())
    if name == "sparse":
        assert board.of(f"{method.kind}/sparsity")[-1][0] == pytest.approx(0.4, abs=0.02)


def test_recovery_tells_every_step_and_every_epoch(caplog: pytest.LogCaptureFixture) -> None:
    net, board = cnn().eval(), Board()
    small = graphprune.shrink(net, 0.3, compensate=False, verify=False, **GIVEN)
    better = recover(small, net, INPUTS, epochs=2, batch_size=8, log=board)
    done = better.graphprune_recovery
    assert [value for value, _ in board.of("recover/loss")] == done.losses
    assert [step for _, step in board.of("recover/held_out")] == [3, 6]
    assert min(value for value, _ in board.of("recover/held_out")) >= done.after
    with caplog.at_level(logging.INFO, "graphprune"):
        recover(small, net, INPUTS, epochs=1, batch_size=8)
    lines = [text for text in caplog.messages if "recover/" in text]
    assert len(lines) == 1 and lines[0].startswith("recover/held_out at step 3: ")


def test_shrinking_in_steps_tells_every_step(caplog: pytest.LogCaptureFixture) -> None:
    board = Board()
    with caplog.at_level(logging.INFO, "graphprune"):
        graphprune.shrink(cnn(), 0.4, steps=2, compensate=False, log=board, **GIVEN)
    assert [step for _, step in board.of("shrink/removed")] == [1, 2]
    assert board.of("shrink/removed")[-1][0] == pytest.approx(0.4, abs=0.05)
    assert len(board.of("shrink/parameters")) == len(board.of("shrink/step_agreement")) == 2
    assert not any("shrink/removed" in text for text in caplog.messages)


def test_what_takes_no_numbers_is_refused() -> None:
    lasso = GroupLasso(cnn(), 1e-3, **GIVEN)
    with pytest.raises(OptionError, match=r"log= takes what has add_scalar"):
        lasso.log(print)
    with pytest.raises(OptionError, match="every is a number of optimizer steps"):
        lasso.log(Board(), every=0)
    with pytest.raises(OptionError, match=r"log= takes what has add_scalar"):
        graphprune.shrink(cnn(), 0.4, steps=2, log="runs", **GIVEN)
