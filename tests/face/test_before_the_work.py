"""What would fail late is refused first; what a caller may give in several forms is taken."""

from __future__ import annotations

import collections
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import GraphPruneError, LiftError, PlanError

OPTIONS: dict[str, Any] = {"compensate": False, "verify": False}
Pair = collections.namedtuple("Pair", "x y")


def dense() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)
    )


def never(*_: Any) -> None:
    raise AssertionError("work was done before the check")


def widths(model: nn.Module) -> list[int]:
    return [m.out_features for m in model.modules() if isinstance(m, nn.Linear)]


def test_a_model_that_cannot_be_pickled_is_refused_before_the_first_step(tmp_path: Path) -> None:
    net = dense()
    net[0] = torch.nn.utils.parametrizations.weight_norm(net[0])
    with pytest.raises(GraphPruneError, match=r"cannot be pickled.*remove_parametrizations"):
        graphprune.shrink(net, 0.5, steps=2, state=tmp_path / "s.pt", callback=never, **OPTIONS)
    assert not list(tmp_path.iterdir())
    with pytest.raises(GraphPruneError, match="there is no folder"):
        graphprune.shrink(
            dense(), 0.5, steps=2, state=tmp_path / "no" / "s.pt", callback=never, **OPTIONS
        )


def test_fractions_of_layers_speak_of_the_whole_model_in_every_step() -> None:
    options = {**OPTIONS, "ratios": {"0": 0.5}, "limits": {"2": 0.75}}
    small = graphprune.shrink(dense(), 0.558, steps=3, **options)
    assert widths(small) == [16, 24, 4]


@pytest.mark.parametrize("name", ["small.txt", "no/small.pt", ".", ""])
def test_a_place_that_cannot_be_written_is_refused_first(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = graphprune.plan(dense(), 0.5, **OPTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(graphprune.Pipeline, "make", never)
    with pytest.raises(GraphPruneError, match=r"small|folder|\.pt2 or \.onnx|path"):
        plan.write(name)


def test_a_plan_is_not_called_as_a_model_is(tmp_path: Path) -> None:
    plan = graphprune.plan(dense(), 0.5, **OPTIONS)
    for suffix in (".onnx", ".pt", ".pt2"):
        with pytest.raises(GraphPruneError, match=r"a plan is a \.json file"):
            plan.save(tmp_path / f"small{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_data_that_is_not_finite_is_named_before_the_work(bad: float) -> None:
    x = torch.randn(64, 8)
    x[40, 3] = bad
    with pytest.raises(GraphPruneError, match=r"batch 1 holds (NaN|infinity) in 'input' at \(8, 3"):
        graphprune.plan(dense(), 0.5, data=x)
    with pytest.raises(GraphPruneError, match="batch 1"):
        graphprune.plan(dense(), 0.5, **OPTIONS).apply(data=x)


def test_minus_infinity_in_a_mask_is_no_fault() -> None:
    from graphprune.statistics.batches import check_finite

    check_finite("data", {"mask": torch.tensor([0.0, -torch.inf])})
    with pytest.raises(GraphPruneError, match="infinity in 'x'"):
        check_finite("data", {"x": torch.tensor([1.0, -torch.inf])})


def test_edits_by_hand_are_what_is_applied_and_saved(tmp_path: Path) -> None:
    plan = graphprune.plan(dense(), 0.3, **OPTIONS)
    own = [i for i in range(32) if i not in (2, 6, 9)]
    plan.groups[0].keep, plan.groups[1].keep = np.array(own), None
    kept = plan.kept["0.weight"][0]
    assert kept is not None and kept.tolist() == own
    assert widths(plan.apply()) == [29, 32, 4]
    assert plan.report is not None
    assert [row.kept for row in plan.report.groups] == [29, 32]
    plan.write(tmp_path / "small.pt")
    assert widths(torch.load(tmp_path / "small.pt", weights_only=False)) == [29, 32, 4]
    path = tmp_path / "plan.json"
    plan.save(path)
    assert widths(graphprune.load_plan(path).apply(dense())) == [29, 32, 4]
    plan.groups[0].keep = own[:5]  # type: ignore[assignment]
    assert widths(plan.apply()) == [5, 32, 4]


def test_a_saved_plan_repeats_what_is_drawn_and_tells_the_call(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3))
    nn.init.uniform_(net[1].weight, 0.5, 1.5)
    nn.init.normal_(net[1].running_mean)
    images, path = torch.randn(2, 1, 8, 8), tmp_path / "plan.json"
    plan = graphprune.plan(net.eval(), 0.5, example_inputs=images, effort="fast", seed=3)
    made = plan.apply()
    plan.save(path)
    again = graphprune.load_plan(path)
    assert torch.equal(again.apply(net)(images), made(images))
    assert again.report is not None and "seed=3" in again.report.call
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))
    assert not torch.equal(graphprune.load_plan(path).apply(net)(images), made(images))


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ([40], "40: indices run from 0 to 31"), ([-1, 2], "-1: indices run from 0 to 31"),
        ([], "empty"), ([0, 0, 1], "0 more than once"), ([0.7, 3.2], "whole numbers"),
        ([[1], [2]], "list of indices"), ([1, [2]], "whole numbers"), (["a"], "whole numbers"),
        ([True, False], "whole numbers"), ([None], "whole numbers"),
    ],
    ids=str,
)  # fmt: skip
def test_indices_that_cannot_be_are_named(keep: Any, message: str, tmp_path: Path) -> None:
    plan = graphprune.plan(dense(), 0.3, **OPTIONS)
    path = tmp_path / "plan.json"
    plan.save(path)
    plan.groups[0].keep = keep
    for act in (plan.apply, lambda: plan.save(tmp_path / "other.json"), lambda: plan.kept):
        with pytest.raises(PlanError, match=message) as error:
            act()
        assert "0.weight[0]" in str(error.value)
    data = json.loads(path.read_text())
    data["groups"][0]["keep"] = keep
    path.write_text(json.dumps(data))
    with pytest.raises(PlanError, match=message):
        graphprune.load_plan(path).apply(dense())


def test_named_tuples_travel_with_a_plan(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 32), nn.Linear(32, 4)

        def forward(self, batch: Any) -> Tensor:
            return self.b((self.a(batch.x) + self.a(batch.y)).relu())

    inputs = (Pair(torch.randn(2, 8), torch.randn(2, 8)),)
    plan = graphprune.plan(Net(), 0.5, example_inputs=inputs, **OPTIONS)
    path = tmp_path / "plan.json"
    plan.save(path)
    assert widths(graphprune.load_plan(path).apply(Net())) == [16, 4]
    path.write_text(path.read_text().replace(__name__, "a_module_that_is_gone"))
    assert widths(graphprune.load_plan(path).apply(Net())) == [16, 4]


def test_names_and_files_are_taken_as_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "from torch import nn\nnet = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 4))\n"
    (tmp_path / "factory_for_names.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save(dense(), tmp_path / "model.pt")
    for name in ("factory_for_names:net", str(tmp_path / "model.pt"), tmp_path / "model.pt"):
        small: Any = graphprune.shrink(name, 0.5, **OPTIONS)  # type: ignore[type-var]
        assert widths(small)[0] < 32
        assert graphprune.analyze(name).groups
    for missing in ("missing.pt", "missing.pt2", "missing.onnx", "no_such_model_at_all"):
        with pytest.raises(GraphPruneError, match=r"missing|no_such_model"):
            graphprune.shrink(missing, 0.5)
    with pytest.raises(GraphPruneError, match="no_such_model"):
        graphprune.plan(dense(), 0.5, **OPTIONS).apply("no_such_model_at_all")  # type: ignore[arg-type]
    with pytest.raises(GraphPruneError, match="not a int"):
        graphprune.plan(dense(), 0.5, **OPTIONS).apply(3)  # type: ignore[arg-type]


def test_arrays_are_inputs_and_shapes_are_not() -> None:
    small = graphprune.shrink(dense(), 0.5, example_inputs=np.zeros((2, 8)), **OPTIONS)
    assert widths(small)[0] < 32
    with pytest.raises(LiftError, match=r"example_inputs=torch\.randn\(2, 8\)"):
        graphprune.shrink(dense(), 0.5, example_inputs=(2, 8))


def test_bytes_that_the_model_does_not_take_are_named() -> None:
    with pytest.raises(LiftError, match=r"torch\.uint8.*x\.float\(\) / 255"):
        graphprune.shrink(dense(), 0.5, data=torch.ones(32, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.rand(32), r"labels \(32,\) of torch\.float32"),
        (torch.full((32,), 7), "a label is 7, but the output has the classes 0 to 3"),
        (torch.ones(32, 2), "pass loss="),
    ],
    ids=["floats", "beyond", "shape"],
)
def test_labels_that_do_not_fit_are_named(labels: Tensor, message: str) -> None:
    with pytest.raises(GraphPruneError, match=message):
        graphprune.plan(
            dense(), 0.5, importance="taylor", data=(torch.randn(32, 8), labels), **OPTIONS
        )


def test_small_whole_numbers_and_one_hot_are_labels() -> None:
    x, classes = torch.randn(32, 8), torch.randint(4, (32,))
    for labels in (classes.to(torch.uint8), classes.int(), nn.functional.one_hot(classes, 4)):
        plan = graphprune.plan(dense(), 0.5, importance="taylor", data=(x, labels), **OPTIONS)
        assert plan.kept


def test_a_loss_that_fails_is_named() -> None:
    with pytest.raises(GraphPruneError, match=r"loss\(output, labels\) failed: KeyError"):
        graphprune.plan(
            dense(), 0.5, importance="taylor", data=(torch.randn(8, 8), torch.zeros(8)),
            loss=lambda output, labels: {}["loss"], **OPTIONS,
        )  # fmt: skip
    with pytest.raises(GraphPruneError, match="loss is a function"):
        graphprune.plan(dense(), 0.5, loss="mse", **OPTIONS)  # type: ignore[arg-type]


def test_weights_that_are_packed_are_named() -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    net = dense()
    packed = TwoTensor(torch.randn(32, 8), torch.randn(32, 8))
    net[0].weight = nn.Parameter(packed, requires_grad=False)
    with pytest.raises(LiftError, match=r"0\.weight is a TwoTensor"):
        graphprune.shrink(net, 0.5)


@pytest.mark.parametrize("ratios", [-1, {"0": "half"}, {"0": 2}])
def test_ratios_of_several_steps_are_checked_first(ratios: Any) -> None:
    with pytest.raises(graphprune.GraphPruneError, match="ratios"):
        graphprune.shrink(dense(), 0.5, steps=2, ratios=ratios, **OPTIONS)
