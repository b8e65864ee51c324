"""Polish: nearer to the original on inputs that it has not seen, or else nothing changes."""

from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.compensation import calibration, forecast
from graphprune.compensation import polish as module
from graphprune.compensation.compensate import Compensation, compensate
from graphprune.compensation.options import Options
from graphprune.compensation.polish import parts, polish
from graphprune.compensation.targets import Targets
from graphprune.core.allowance import Allowance
from graphprune.core.cuts import Cuts, narrow
from graphprune.statistics.samples import Samples, split


class _Rows(nn.Module):
    """A recurrent state, which no linear solve sees."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.cell(x)[0][:, -1])
        return found


FEW = 60  # steps of a descent, where more would show nothing else


def _solved(number: int = 128) -> tuple[Cuts, Samples, Compensation]:
    torch.manual_seed(0)
    deps = graphprune.analyze(_Rows().eval(), torch.randn(2, 6, 4))
    group = max(deps.groups, key=lambda g: g.size)
    cuts = narrow(deps, {group.axis: np.arange(0, group.size, 2)})
    samples = split(deps, [torch.randn(number, 6, 4)], "noise")
    return cuts, samples, compensate(cuts, samples, {})


def _off(cuts: Cuts, samples: Samples, found: Compensation) -> float:
    return _descent(cuts, samples, found).off(range(len(samples.chunks)))


def _descent(cuts: Cuts, samples: Samples, found: Compensation) -> module._Polisher:
    return module._Polisher(cuts, samples.size, found, Targets(cuts, samples, FEW))


def test_results_come_nearer_on_other_inputs() -> None:
    cuts, samples, solved = _solved()
    polished = polish(cuts, samples, solved, {})
    other = split(cuts.deps, [torch.randn(128, 6, 4)], "noise")
    assert polished is not solved
    assert _off(cuts, other, polished) < 0.9 * _off(cuts, other, solved)
    for value, tensor in polished.values.items():
        kept = cuts.kept(value)
        sizes = [n if k is None else len(k) for n, k in zip(value.shape, kept, strict=True)]
        assert list(tensor.shape) == sizes


def test_the_same_samples_give_the_same_weights() -> None:
    cuts, samples, solved = _solved()
    first, again = (polish(cuts, samples, solved, {}, FEW).values for _ in range(2))
    assert first is not solved.values
    assert all(torch.equal(tensor, again[value]) for value, tensor in first.items())


def test_a_descent_that_strays_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts, samples, solved = _solved()
    monkeypatch.setattr(module, "POLISH_RATE", 1e3)
    assert polish(cuts, samples, solved, {}) is solved


def test_statistics_of_noise_are_no_ground_for_a_descent() -> None:
    cuts, samples, solved = _solved()
    samples.norms = {cuts.deps.source.inputs[0]: []}
    assert polish(cuts, samples, solved, {}) is solved


def test_effort_decides_whether_there_is_time_for_a_descent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(calibration, "POLISH_STEPS", FEW)
    monkeypatch.setattr(calibration, "ERROR_SETTLED", 0.0)
    model, x = _Rows().eval(), torch.randn(128, 6, 4)

    def note(effort: str) -> str:
        plan = graphprune.plan(model, 0.4, example_inputs=x[:2], data=[x], effort=effort)
        plan.apply()
        assert plan.report is not None
        return plan.report.compensation

    assert "polished" in note("auto")
    assert "polished" not in note("fast")
    monkeypatch.setattr(forecast, "POLISH_SECONDS", 0.0)
    assert "polished" not in note("auto")
    assert "polished" in note("balanced")


@pytest.mark.parametrize("number", [16, 48])
def test_few_samples_are_not_descended_on(number: int) -> None:
    cuts, samples, solved = _solved(number)
    assert (polish(cuts, samples, solved, {}, 8) is solved) == (number < 32)


def test_the_descent_is_judged_by_inputs_that_the_solve_did_not_see_either() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 48), nn.Tanh(), nn.Linear(48, 24), nn.Tanh())
    model.append(nn.Linear(24, 5)).eval()
    x = torch.randn(96, 12)
    deps = graphprune.analyze(model, x[:2])
    cuts = narrow(deps, {g.axis: np.arange(0, g.size, 2) for g in deps.groups if g.size > 12})
    samples = split(deps, [x], "few: the solve explains most of their noise")
    solved = compensate(cuts, samples, {})
    other = split(deps, [torch.randn(1024, 12)], "unseen")
    polished = polish(cuts, samples, solved, {})
    assert polished is not solved
    assert _off(cuts, other, polished) < _off(cuts, other, solved)


def test_steps_are_as_many_as_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    deps = _solved()[0].deps
    full = forecast.descent_seconds(deps, 32, forecast.POLISH_STEPS)
    program = Mock(original=None)

    def steps(effort: str, longest: float) -> int:
        monkeypatch.setattr(forecast, "POLISH_SECONDS", longest)
        options = Options(compensate=True, effort=effort)
        return calibration.Calibration(program, deps, options)._steps(32)

    assert steps("auto", full / forecast.POLISH_EASY) == forecast.POLISH_STEPS
    assert steps("auto", full) == forecast.POLISH_STEPS_FEWER
    assert steps("auto", full / 4) == forecast.POLISH_STEPS_FEWEST
    assert steps("auto", 0.0) == 0
    assert steps("balanced", 0.0) == forecast.POLISH_STEPS
    assert steps("best", 0.0) > forecast.POLISH_STEPS


def test_auto_ends_a_descent_by_the_clock_and_other_efforts_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deps = _solved()[0].deps
    monkeypatch.setattr(calibration, "AUTO_SECONDS", 0.0)
    program = Mock(original=None)
    spent = [
        calibration.Calibration(program, deps, Options(True, effort))._allowed.spent
        for effort in ("auto", "balanced", "best")
    ]
    assert spent == [1.0, 0.0, 0.0]


def test_a_graph_that_names_its_batch_size_descends() -> None:
    torch.manual_seed(0)

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(12, 48), nn.Linear(48, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = torch.tanh(self.first(x)).view(x.shape[0], 4, 12)
            out: torch.Tensor = self.last(parts.square().reshape(x.shape[0], 48))
            return out

    x = torch.randn(256, 12)
    deps = graphprune.analyze(Heads().eval(), x[:2])
    keep = {g.axis: np.arange(0, g.size, 2) for g in deps.groups}
    cuts, samples = narrow(deps, keep), split(deps, [x], "given")
    solved = compensate(cuts, samples, {})
    assert polish(cuts, samples, solved, {}, FEW) is not solved


def test_samples_are_cut_into_steps() -> None:
    cuts, samples, _ = _solved()
    most = parts(cuts.deps, samples, 16)
    assert most.size <= 16
    joined = [torch.cat([chunk[0] for chunk in x.chunks]) for x in (most, samples)]
    assert torch.equal(*joined)


def test_no_descent_is_begun_where_all_answers_are_the_same_already() -> None:
    cuts, samples, solved = _solved()
    assert polish(cuts, samples, solved, {}, FEW, enough=0.0) is not solved
    better = polish(cuts, samples, solved, {}, FEW, enough=1e-5)
    assert better is not solved, "outputs differ by more"
    exact = Compensation()
    whole = narrow(cuts.deps, {})
    every = range(len(samples.chunks))
    descent = _descent(whole, samples, exact)
    assert descent.settled(every, 0.0, 0.0)
    assert descent.settled(every, 0.005, 0.01)
    assert not descent.settled(every, 0.02, 0.01)
    noisy = _descent(cuts, samples, exact)
    assert not noisy.settled(every, 0.005, 0.01), "answers differ"


def test_without_time_the_weights_stay_as_they_were_solved_for() -> None:
    cuts, samples, solved = _solved()
    assert polish(cuts, samples, solved, {}, allowed=Allowance(0.0)) is solved


def test_a_descent_ends_where_nothing_is_left_to_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts, samples, solved = _solved()
    monkeypatch.setattr(module._Polisher, "off", lambda self, chunks: 0.0)
    monkeypatch.setattr(module._Polisher, "run", Mock(side_effect=AssertionError("it descends")))
    assert polish(cuts, samples, solved, {}) is solved


@pytest.mark.parametrize("effort", [0, -3.0, True, float("nan"), float("inf"), "great"])
def test_an_effort_is_a_name_or_seconds(effort: object) -> None:
    with pytest.raises(graphprune.GraphPruneError, match="seconds above zero"):
        Options(effort=effort)


def _read(monkeypatch: pytest.MonkeyPatch, effort: str | float, pace: float) -> str:
    """What the report says of the samples read, on a machine of a given pace."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4)), torch.randn(256, 6)
    monkeypatch.setattr(calibration, "slowness", lambda *_: pace)
    options: dict[str, object] = {"data": [x], "effort": effort, "verify": False}
    plan = graphprune.plan(model, 0.5, example_inputs=x[:2], **options)
    return plan.report.compensation


def test_fewer_samples_are_read_where_little_time_is_granted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "224 inputs from data" in _read(monkeypatch, 60.0, 1.0)
    idle, busy = (_read(monkeypatch, 0.002, pace) for pace in (1.0, 3.0))
    assert idle.startswith("statistics from the first ")
    assert busy.startswith("statistics from the first ")
    assert 8 <= int(busy.split()[4]) < int(idle.split()[4]) < 224


def test_auto_reads_as_many_samples_as_a_minute_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "from 224 inputs from data" in _read(monkeypatch, "auto", 1e6), "next to no time"
    monkeypatch.setattr(calibration, "PASSES_SECONDS", 0.0005)
    assert "from the first " in _read(monkeypatch, "auto", 1.0)
    assert "from 224 inputs" in _read(monkeypatch, "balanced", 1.0), "named efforts take their time"
