"""Targets: what the original computes for augmented samples, once for each way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.compensation import targets as module
from graphprune.compensation.targets import Targets
from graphprune.core.cuts import Cuts, narrow
from graphprune.statistics.samples import Samples, chunked


class _Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3)
        self.second = nn.Conv2d(8, 6, 3)
        self.last = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        found: torch.Tensor = self.last(x.mean((2, 3)))
        return found


def _made(steps: int) -> tuple[Cuts, nn.Module, Targets]:
    torch.manual_seed(0)
    model, x = _Counted().eval(), torch.randn(16, 2, 8, 8)
    deps = graphprune.analyze(model, x[:4])
    group = next(g for g in deps.groups if g.size == 8)
    cuts = narrow(deps, {group.axis: np.arange(0, 8, 2)})
    samples = Samples(list(chunked([x], 4)), 4, "noise")
    return cuts, model, Targets(cuts, samples, steps)


def _runs(monkeypatch: pytest.MonkeyPatch, targets: Targets) -> list[int]:
    """Grows with each run of the original."""
    seen: list[int] = []
    whole = targets._dense.run

    def run(*arguments: object) -> list[torch.Tensor]:
        seen.append(len(seen))
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(targets._dense, "run", run)
    return seen


def test_they_are_what_the_original_computes() -> None:
    _, model, targets = _made(100)
    found = targets.at(1, 2)
    (x,) = found.chunk
    assert isinstance(model, _Counted)
    torch.testing.assert_close(found.ends[0], model(x))
    after = torch.relu(model.first(x))
    assert any(
        v.shape == after[:, ::2].shape and torch.allclose(v, after[:, ::2], atol=1e-6)
        for v in found.inside.values()
    ), "the channels that stay of what the second convolution reads"
    assert not torch.equal(x, targets.chunk(1)[0]), "augmented"
    torch.testing.assert_close(targets.answers(1)[0], model(targets.chunk(1)[0]))


def test_errors_count_by_the_variance_and_those_of_outputs_once_more() -> None:
    _, _, targets = _made(100)
    found = targets.at(0, 0)
    several = [*found.inside.values(), *found.ends]
    spreads = torch.stack([x.var(unbiased=False) for x in several])
    shares = found.weights * spreads
    torch.testing.assert_close(
        shares, torch.tensor([1 / len(several)] * (len(several) - 1) + [1 / len(several) + 1])
    )


def test_the_original_runs_once_for_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, targets = _made(4 * 4 * 5)  # each way four times: five passes over four chunks
    runs = _runs(monkeypatch, targets)
    for step in range(80):
        targets.at(step % 4, step // 4)
    assert len(runs) == 20
    assert targets.at(0, 0) is targets.at(0, 5)
    assert targets.at(0, 1) is not targets.at(0, 0)


def test_it_runs_each_time_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TARGET_BYTES", 1)
    _, _, targets = _made(80)
    runs = _runs(monkeypatch, targets)
    chunks = [targets.at(0, round_).chunk[0] for round_ in (0, 5, 5)]
    assert len(runs) == 3
    assert not torch.equal(chunks[0], chunks[1]), "another way in each pass"
    assert torch.equal(chunks[1], chunks[2])
