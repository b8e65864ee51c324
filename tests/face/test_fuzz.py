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
BUDGETS = st.dictionaries(
    st.sampled_from(["macs", "params", "channels", "memory", "watts", 3]),
    st.one_of(SHARES, SHARES, ODD),
    max_size=2,
)
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
    "budget": BUDGETS,
    "round_to": st.sampled_from(["auto", 1, 2, 4, 5, 64]),
    "keep": st.lists(LAYERS, max_size=2),
    "loss": st.sampled_from([None, lambda output, labels: output.sum(), lambda output, labels: 3]),
    "seed": st.integers(0, 3),
    "passes": st.sampled_from([None, "couple,score,select,lower", "lower", ["couple"], [nn.ReLU]]),
    "backend": st.sampled_from(["auto", "eager"]),
    "effort": st.sampled_from(["fast"]),
}
CALLS = ["plan", "plan", "plan", "shrink", "shrink", "steps"]  # steps take several captures
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 3),
    "effort": st.sampled_from(["fast", "auto", 0.2, 0, -1.0, float("inf")]),
    "compensate": st.sampled_from([False, False, True, "auto", "none"]),
    "verify": st.booleans(),
    "keep": st.lists(LAYERS, max_size=2),
}
WIDTHS: dict[str, st.SearchStrategy[Any]] = {
    name: USUAL[name] for name in ("importance", "allocation", "limits", "ratios", "round_to")
}
RATIOS = st.one_of(SHARES, st.lists(SHARES, max_size=3), st.sampled_from(["0.5", (), 2, True]))
COSTS = st.sampled_from(["params", "macs", "channels", "memory", "watts", lambda deps: 1.0, 0])
OTHERS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "analyze": {"keep": st.one_of(st.lists(LAYERS, max_size=2), ODD)},
    "compact": {name: COMMON[name] for name in ("seed", "verify", "keep")},
    "factor": {
        "ratio": SHARES,
        "of": COSTS,
        "budget": BUDGETS,
        **{name: USUAL[name] for name in ("limits", "round_to")},
        **COMMON,
    },
    "sparsify": {
        "ratio": SHARES,
        "pattern": st.sampled_from(["unstructured", "2:4", "4:2", "1:1", "0:4", "x", "a:b", ""]),
        "form": st.sampled_from(["zeros", "masks", "sparse", "", None]),
        "importance": st.sampled_from(["auto", "wanda", "obs", "l1", "x", None]),
        "spread": st.sampled_from(["auto", "uniform", "erk", "x", 1]),
        **COMMON,
    },
    "plan_sparsity": {"ratio": SHARES, "pattern": st.sampled_from(["2:4", "8:4"]), **COMMON},
    "sweep": {
        "ratios": RATIOS,
        "of": COSTS,
        "by": st.sampled_from(["width", "rank", "width+rank", ["width", "rank"], [], "x", None]),
        "bits": st.sampled_from([(32,), (8,), (), (7,), "8", None, [32, 8.5]]),
        "metric": st.sampled_from([None, lambda model: 1.0, lambda: 1, lambda model: "x", 3]),
        **COMMON,
        **WIDTHS,
    },
    "sensitivity": {
        "ratio": SHARES,
        "metric": st.sampled_from([None, lambda model: 1.0, lambda model: None]),
        **COMMON,
    },
    "quantise": {
        "kind": st.sampled_from(["static", "dynamic", "weights", "x", None]),
        "samples": st.sampled_from([0, 4, -1, 2.5, "x"]),
        "seed": st.integers(0, 3),
    },
    "recover": {
        "epochs": st.sampled_from([0, 1, -1, 1.5, "x"]),
        "rate": st.sampled_from([0.01, 0.0, -1, float("nan"), "x"]),
        "batch_size": st.sampled_from([4, 0, -1, 2.5]),
        "loss": st.sampled_from([None, True, lambda output, labels: output.sum(), 3]),
        "temperature": st.sampled_from([2.0, 0, -1, None]),
        "seconds": st.sampled_from([0.2, None, 0, -1, "x"]),
        "callback": st.sampled_from([None, lambda *given: None, 3]),
    },
}
"""What else takes a model, and its options."""

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


@st.composite
def others(draw: st.DrawFn) -> tuple[str, Callable[[], nn.Module], dict[str, Any]]:
    call, build = draw(st.sampled_from(list(OTHERS))), draw(st.sampled_from(list(MODELS)))
    usual = OTHERS[call]
    names = draw(st.lists(st.sampled_from(sorted(usual)), max_size=3, unique=True))
    options = {name: draw(usual[name]) for name in names}
    if "effort" in usual:
        options.setdefault("effort", "fast")
    usually, shape = st.just(torch.randn(8, *MODELS[build])), MODELS[build]
    if call != "recover":
        options["example_inputs"] = draw(st.one_of(usually, usually, inputs(shape)))
    if call != "analyze" and draw(st.booleans()):
        options["data"] = draw(st.one_of(usually, usually, data(shape)))
    if draw(st.integers(0, 3)) == 0:
        options[draw(st.sampled_from(sorted(usual)))] = draw(ODD)
    return call, build, options


def attempt(call: str, build: Callable[[], nn.Module], options: dict[str, Any]) -> None:
    """Errors are ours and say something; the model is what it was."""
    torch.manual_seed(0)
    model = build()
    before = {name: held.clone() for name, held in model.state_dict().items()}
    given = options if call in OTHERS else {"compensate": False, **options}
    try:
        if call == "steps":
            graphprune.shrink(model, steps=2, **given)
        elif call == "recover":
            graphprune.recover(build(), model, **given)
        else:
            getattr(graphprune, call)(model, **given)
    except GraphPruneError as error:
        assert str(error)
    assert model.training
    assert all(torch.equal(held, before[name]) for name, held in model.state_dict().items())


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=75, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(cases())
def test_calls_raise_errors_of_ours_only(case: Any) -> None:
    attempt(*case)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(others())
def test_what_else_takes_a_model_raises_errors_of_ours_only(case: Any) -> None:
    attempt(*case)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_two_thousand_calls_raise_errors_of_ours_only(part: int) -> None:
    """New calls each day: the seeds follow the date."""

    @seed(date.today().toordinal() * PARTS + part)
    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=QUIET)
    @given(st.one_of(cases(), others()))
    def run(case: Any) -> None:
        attempt(*case)

    run()
