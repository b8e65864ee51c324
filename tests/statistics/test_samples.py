"""Data of the caller: what is read, and what is said where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import graphprune
from graphprune.statistics import samples


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


def _error(model: nn.Module, small: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - small(x)).square().mean())


def _weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_every_kind_of_data_is_the_same_data() -> None:
    x, y = torch.randn(96, 6), torch.zeros(96)

    def batches() -> Iterator[torch.Tensor]:
        yield from x.split(40)

    kinds = [
        [x],
        x,
        batches(),
        DataLoader(TensorDataset(x, y), 32),
        [{"input": part} for part in x.split(50)],
    ]
    example = {"input": x[:2]}
    found = [
        _weights(graphprune.shrink(_net(), 0.5, example_inputs=given, data=kind, effort="fast"))
        for kind, given in zip(kinds, [x[:2]] * 4 + [example], strict=True)
    ]
    for weights in found[1:]:
        torch.testing.assert_close(weights, found[0], rtol=1e-4, atol=1e-5)


def test_data_decide_what_is_kept_and_how() -> None:
    model = _net()
    x = torch.randn(256, 6) * torch.tensor([3.0, 1, 0.1, 0.1, 0.1, 0.1])
    plain = graphprune.shrink(model, 0.5, example_inputs=x[:2], compensate=False)
    fitted = graphprune.shrink(model, 0.5, example_inputs=x[:2], data=[x], effort="fast")
    assert _error(model, fitted, x) < 0.1 * _error(model, plain, x)


def test_recalibration_follows_a_shift_in_the_same_shape() -> None:
    model, x = _net(), torch.randn(256, 6)
    shifted = x * torch.tensor([0.1, 0.1, 0.1, 0.1, 4, 4]) + 1
    small = graphprune.shrink(model, 0.5, example_inputs=x[:2], data=[x], effort="fast")
    before = _weights(small).clone()
    again = graphprune.recalibrate(small, [shifted])
    assert type(again) is type(small)
    assert [p.shape for p in again.parameters()] == [p.shape for p in small.parameters()]
    assert _error(model, again, shifted) < 0.5 * _error(model, small, shifted)
    assert torch.equal(_weights(small), before)
    with pytest.raises(graphprune.GraphPruneError, match="was not made by graphprune"):
        graphprune.recalibrate(_net(), [x])


def test_a_loaded_plan_is_fitted_to_the_model_that_it_is_applied_to(tmp_path: Path) -> None:
    model, x = _net(), torch.randn(256, 6)
    plan = graphprune.plan(model, 0.5, example_inputs=x[:2], data=[x], effort="fast")
    small = plan.apply()
    plan.save(tmp_path / "plan.json")
    other = graphprune.load_plan(tmp_path / "plan.json").apply(_net(), data=[x])
    torch.testing.assert_close(_weights(other), _weights(small))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "not a single batch"),
        ([torch.randn(4, 7)], r"item 0 holds tensors of shapes \[\(4, 7\)\]"),
        ([torch.randn(4, 6), "text"], "a batch is a str"),
    ],
)
def test_data_that_do_not_fit_are_named(data: list[object], message: str) -> None:
    with pytest.raises(graphprune.GraphPruneError, match=message):
        graphprune.shrink(_net(), 0.5, example_inputs=torch.randn(2, 6), data=data)


def test_options_are_checked() -> None:
    with pytest.raises(graphprune.GraphPruneError, match="no effort 'most'"):
        graphprune.plan(_net(), 0.5, effort="most")
    with pytest.raises(graphprune.GraphPruneError, match="compensate is True, False or 'auto'"):
        graphprune.plan(_net(), 0.5, compensate="yes")


def test_obs_removes_what_others_can_stand_in_for() -> None:
    torch.manual_seed(0)
    model = _net()
    with torch.no_grad():  # two alike, and large: norms would keep them both
        model[0].weight[3] = model[0].weight[7] = 3 * model[0].weight[3]
        model[0].bias[3] = model[0].bias[7] = 0.5
    x = torch.randn(256, 6)
    options = {"example_inputs": x[:2], "data": x, "round_to": 1}
    kept = graphprune.plan(model, 1 / 16, "channels", importance="obs", **options).kept
    assert len({3, 7} & set(kept["0.weight"][0].tolist())) == 1
    kept = graphprune.plan(model, 1 / 16, "channels", importance="l2", **options).kept
    assert {3, 7} <= set(kept["0.weight"][0].tolist())
    with pytest.raises(graphprune.GraphPruneError, match="'obs' needs statistics"):
        graphprune.plan(model, 0.5, importance="obs", example_inputs=x[:2], compensate=False)


class _Masked(torch.nn.Module):
    """A second input whose samples lie along an axis of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = torch.nn.Linear(4, 16), torch.nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.b(self.a(x).relu()), mask.cumsum(1)


def test_samples_may_lie_along_several_axes() -> None:
    inputs = (torch.randn(2, 4), torch.ones(2, 4))
    data = [(torch.randn(64, 4), torch.ones(64, 4))]
    options = {"example_inputs": inputs, "data": data, "compensate": True, "effort": "fast"}
    plan = graphprune.plan(_Masked(), 0.5, **options)
    plan.apply()
    assert "32 inputs from data" in str(plan.report)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_items_of_any_number_of_samples(number: int) -> None:
    """Without example inputs, which are taken from the first item; two samples are captured."""
    data = [(torch.randn(number, 4), torch.ones(number, 4)) for _ in range(4)]
    assert graphprune.shrink(_Masked(), 0.5, data=data, effort="fast").a.out_features < 16


def test_a_container_limits_how_many_samples_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 1, 3))
    deps = graphprune.analyze(model, torch.randn(1, 1, 512, 512))
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(samples, "_CONTAINER", limit)
    monkeypatch.setattr(samples, "MEMORY_PART", 1)
    found = []
    for content in ("3221225472\n", "2147483648\n", "1000\n"):
        limit.write_text(content, encoding="ascii")
        found.append(samples.affordable(deps, 1000))
    batch = samples.captured(deps)
    each = 2 * samples.live_bytes(deps) * batch
    wanted = [int(granted / each) * batch for granted in (3221225472, 2147483648)]
    assert found == [*wanted, wanted[1]]
    limit.write_text("max\n", encoding="ascii")
    assert samples.affordable(deps, 1000) >= found[0]
