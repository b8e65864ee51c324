"""Whatever a caller passes: a smaller model or an error of ours, never a raw exception."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import nn

import graphprune
from graphprune import GraphPruneError


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


MODELS: dict[Callable[[], nn.Module], tuple[int, ...]] = {dense: (6,), convolutions: (3, 9)}
ODD = st.sampled_from([None, -1, 0, 3, 1.5, "x", "", float("nan"), True, (), {}, [1], object()])
CRITERIA = ["auto", "l1", "fpgm", "random", "mu-2sigma", "taylor", "snip", "wanda", "apoz", "obs"]
LAYERS = st.sampled_from(["0", "2", "3", "*", "nowhere", nn.Linear, nn.LSTM, 7])
SHARES = st.sampled_from([0.0, 0.2, 0.5, 0.9])
USUAL: dict[str, st.SearchStrategy[Any]] = {
    "of": st.sampled_from(["params", "macs", "channels", "memory"]),
    "importance": st.sampled_from(
        [
            *CRITERIA,
            lambda weight, dim: weight.new_full((weight.shape[dim],), float("nan")),
            lambda weight, dim: weight.new_ones(3),
            lambda weight, dim: None,
            lambda weight, dim: 1 / 0,
            lambda context: [np.ones(group.size) for group in context.deps.groups],
            lambda: 3,
        ]
    ),
    "allocation": st.sampled_from(["auto", "uniform", "global", "isomorphic", "erk"]),
    "normalize": st.sampled_from(["mean", "none", "lamp", "gaussian"]),
    "reduction": st.sampled_from(["sum", "mean", "max", "first"]),
    "ratios": st.dictionaries(LAYERS, SHARES, max_size=2),
    "limits": st.dictionaries(LAYERS, st.sampled_from([0.3, 4, (2, 6), (0.1, 0.5), (9, 2)])),
    "budget": st.dictionaries(st.sampled_from(["macs", "params", "watts"]), SHARES, max_size=2),
    "round_to": st.sampled_from(["auto", 1, 2, 4, 5, 64]),
    "keep": st.lists(LAYERS, max_size=2),
    "loss": st.sampled_from([None, lambda output, labels: output.sum(), lambda output, labels: 3]),
    "seed": st.integers(0, 3),
    "passes": st.sampled_from([None, "couple,score,select,lower", "lower", ["couple"], [nn.ReLU]]),
    "backend": st.sampled_from(["auto", "eager"]),
    "effort": st.sampled_from(["fast"]),
}
CALLS = ["plan", "plan", "plan", "shrink", "shrink", "steps"]  # steps take several captures
PARTS = 20  # of the long run, each of a hundred calls, so that they run side by side and all end


@st.composite
def inputs(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    number = draw(st.sampled_from([1, 2, 5]))
    like = st.sampled_from([shape, shape[:-1], (*shape[:-1], 4), (*shape, 2)])
    x = torch.randn(number, *draw(st.one_of(st.just(shape), like)))
    kind = draw(
        st.sampled_from(["tensor", "numpy", "bytes", "whole", "half", "shape", "dict", "nan"])
    )
    made = {
        "tensor": x, "numpy": x.double().numpy(), "bytes": x.to(torch.uint8), "whole": x.long(),
        "half": x.half(), "shape": tuple(x.shape), "dict": {"input": x}, "nan": x * float("nan"),
    }  # fmt: skip
    return made[kind]


@st.composite
def data(draw: st.DrawFn, shape: tuple[int, ...]) -> Any:
    x = draw(inputs(shape))
    number = len(x) if isinstance(x, torch.Tensor | np.ndarray) else 2
    labels = st.sampled_from(
        [torch.zeros(number).long(), torch.rand(number), torch.full((number,), 9), "cat", None]
    )
    return draw(st.sampled_from([x, [x], (x, draw(labels)), [(x, draw(labels))], []]))


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, Callable[[], nn.Module], dict[str, Any]]:
    build = draw(st.sampled_from(list(MODELS)))
    names = draw(st.lists(st.sampled_from(sorted(USUAL)), max_size=3, unique=True))
    options = {name: draw(USUAL[name]) for name in names}
    options["ratio"] = draw(st.one_of(st.none(), SHARES))
    if draw(st.booleans()):
        options["example_inputs"] = draw(inputs(MODELS[build]))
    if draw(st.integers(0, 3)) == 0:
        options["data"] = draw(data(MODELS[build]))
    if draw(st.integers(0, 3)) == 0:
        options[draw(st.sampled_from(sorted({*USUAL, "ratio", "example_inputs", "data"})))] = draw(
            ODD
        )
    return draw(st.sampled_from(CALLS)), build, options


def attempt(call: str, build: Callable[[], nn.Module], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, given = build(), {"compensate": False, **options}
    try:
        if call == "plan":
            graphprune.plan(model, **given)
        elif call == "shrink":
            graphprune.shrink(model, **given)
        else:
            graphprune.shrink(model, steps=2, **given)
    except GraphPruneError as error:
        assert str(error)


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(cases())
def test_a_hundred_calls_raise_errors_of_ours_only(case: Any) -> None:
    attempt(*case)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_two_thousand_calls_raise_errors_of_ours_only(part: int) -> None:
    """New calls each day: the seeds follow the date."""

    @seed(date.today().toordinal() * PARTS + part)
    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=QUIET)
    @given(cases())
    def run(case: Any) -> None:
        attempt(*case)

    run()
