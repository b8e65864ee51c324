"""Timing with a clock that the tests set: calm machines, busy ones, and what is kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, cycle, repeat
from pathlib import Path

import pytest
import torch

from graphprune.costs.latency import timing
from graphprune.costs.latency.timing import Timer, in_turns

CPU = torch.device("cpu")
Clock = Callable[[Iterable[float]], list[float]]


@pytest.fixture
def clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets what the next calls take, in milliseconds; the list that it answers tells which ran."""
    monkeypatch.setenv("GRAPHPRUNE_CACHE", str(tmp_path))

    def set_to(times: Iterable[float]) -> list[float]:
        left, told = iter(times), []

        def once(call: Callable[[], object], device: torch.device) -> float:
            told.append(next(left) / 1000)
            return told[-1]

        monkeypatch.setattr(timing, "_once", once)
        return told

    return set_to


def _seconds(timer: Timer, key: str = "relu") -> float:
    return timer.seconds(key, lambda: lambda: None, CPU)


def _busy() -> Iterator[float]:
    """No two runs are alike, and it gets slower and slower."""
    return (2.0 * 1.3**run for run in range(100))


def test_a_calm_machine_runs_an_operation_a_few_times(clock: Clock) -> None:
    told = clock(chain([5.0], repeat(2.0)))
    timer = Timer()
    assert _seconds(timer) == 0.002
    assert timing.LEAST_RUNS < len(told) < timing.ENOUGH_RUNS
    assert not timer.disturbed


def test_a_busy_machine_is_given_more_time(clock: Clock) -> None:
    told = clock(chain([9.0, 7.0, 5.0, 30.0, 60.0, 12.0, 40.0], repeat(2.0)))
    timer = Timer()
    assert _seconds(timer) == 0.002
    assert len(told) == 9, "until the least time came twice"
    assert not timer.disturbed


def test_what_was_disturbed_is_not_kept(clock: Clock, tmp_path: Path) -> None:
    told = clock(_busy())
    timer = Timer()
    _seconds(timer, "conv")
    assert len(told) < timing.BUSY_RUNS
    clock(repeat(3.0))
    _seconds(timer, "relu")
    assert timer.disturbed == {"conv"}
    timer.save()
    (path,) = tmp_path.iterdir()
    assert json.loads(path.read_text()) == {"relu": 0.003}
    timer.forget()
    assert not timer.disturbed
    assert _seconds(timer, "conv") == 0.003
    assert timer.measured == 3, "the other one is known"


def test_one_call_takes_the_median(clock: Clock) -> None:
    clock(chain([50.0, 50.0], cycle([1.0, 2.0, 3.0])))
    assert in_turns([lambda: None], CPU) == [0.002]


def test_ratios_of_the_same_turn_count(clock: Clock) -> None:
    clock([1.0, 2.0] * 3 + [10.0, 20.0] * 57)
    first, second = in_turns([lambda: None] * 2, CPU)
    assert second == 2 * first


def test_turns_go_on_until_their_ratio_is_sure(clock: Clock) -> None:
    calm = clock(cycle([100.0, 50.0]))
    assert in_turns([lambda: None] * 2, CPU) == [0.1, 0.05]
    busy = clock(cycle([100.0, 50.0, 100.0, 40.0, 100.0, 60.0, 100.0, 50.0, 100.0, 45.0]))
    assert in_turns([lambda: None] * 2, CPU) == [0.1, 0.05]
    assert len(busy) > 2 * len(calm)
    hopeless = clock(cycle([100.0, 50.0, 100.0, 400.0, 300.0, 60.0]))
    in_turns([lambda: None] * 2, CPU, patience=20.0)
    assert 20.0 <= sum(hopeless) < 21.0


def test_the_clock_tells_time() -> None:
    assert timing._once(lambda: torch.randn(64, 64).sum(), CPU) > 0
