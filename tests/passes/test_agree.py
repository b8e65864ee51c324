"""How far a smaller model agrees with the original, on inputs that no step has seen."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import graphprune
from graphprune.core.agreement import Agreement, compared
from graphprune.core.batch import Batch
from graphprune.report.text import agreed
from graphprune.statistics.batches import UNSEEN, held_out


def _net() -> nn.Module:
    """A classifier half of whose hidden units do nothing."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        net[2].weight[:, 16:] = 0
    return net


def _report(ratio: float, **options: Any) -> Any:
    plan = graphprune.plan(_net(), ratio, compensate=False, **options)
    assert plan.report.agreement is None  # nothing is made yet
    plan.apply()
    return plan.report


def test_dead_units_cost_no_agreement() -> None:
    report = _report(0.4, example_inputs=torch.randn(2, 8))
    found = report.agreement
    assert found.kept > 0.9999
    assert found.same in (None, 1.0)
    assert not found.real and found.source == "noise inputs"
    assert str(report).startswith("agreement: outputs keep 100.0%")


def test_agreement_is_not_measured_where_nothing_is_asked_about_outputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: list[Any] = []
    monkeypatch.setattr("graphprune.passes.agree.compared", lambda *given: runs.append(given))
    report = _report(0.4, example_inputs=torch.randn(2, 8), verify=False)
    assert report.agreement is None
    assert not runs
    rows = {row.name: row.note for row in report.passes}
    assert rows["agree"] == rows["verify"] == "off"


@pytest.mark.parametrize("compensate", [True, "auto"])
def test_agreement_is_measured_unchecked_where_something_makes_up_for_what_went(
    compensate: bool | str,
) -> None:
    inputs = torch.randn(2, 8)
    plan = graphprune.plan(
        _net(), 0.4, example_inputs=inputs, compensate=compensate, verify=False, effort="fast"
    )
    plan.apply()
    assert plan.report.agreement.kept > 0.9999


def test_lost_agreement_is_said_plainly_and_first() -> None:
    report = _report(0.9, example_inputs=torch.randn(2, 8))
    assert report.agreement.kept < 0.9
    first = str(report).replace("\n", " ").partition("Sequential:")[0]
    assert first.startswith(("agreement: low: outputs keep", "agreement: partial: outputs keep"))
    assert "compensate, fine-tune, pass data, or lower the ratio" in first
    assert "surgery verified: removal equals masking" in str(report)


def test_more_data_helps_where_none_are_spare() -> None:
    plan = graphprune.plan(_net(), 0.9, data=torch.randn(8, 8), effort="fast")
    plan.apply()
    assert plan.report.agreement.kept < 0.9 and not plan.report.agreement.real
    assert "fine-tune, pass more data, or lower" in str(plan.report).replace("\n", " ")


def test_inputs_are_held_out_of_data() -> None:
    x = torch.randn(96, 8)
    plan = graphprune.plan(_net(), 0.9, compensate=False, data=x, importance="activation")
    plan.apply()
    found = plan.report.agreement
    assert found.real and found.inputs == 12
    assert "inputs held out of data" in found.sentence()
    work = plan.live()
    seen = torch.cat([batch.args[0] for batch in work.batches])
    unseen = torch.cat([batch.args[0] for batch in work.unseen])
    assert torch.equal(torch.cat([seen, unseen]), x)


def _file(net: nn.Module) -> onnx.ModelProto:
    held = {name: p.detach().numpy() for name, p in net.named_parameters()}
    nodes = [
        helper.make_node("Gemm", ["x", "0.weight", "0.bias"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "2.weight", "2.bias"], ["y"], transB=1),
    ]
    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", size])
        for name, size in (("x", 8), ("y", 4))
    )
    weights = [numpy_helper.from_array(array, name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_file_agrees_as_its_module_does() -> None:
    x = torch.randn(96, 8)
    net = _net()
    found = []
    for model in (net, _file(net)):
        plan = graphprune.plan(model, 0.9, compensate=False, importance="l2", data=x.numpy())
        plan.apply()
        found.append(plan.report.agreement)
    assert found[1] is not None and found[0].inputs == found[1].inputs
    assert found[0].kept == pytest.approx(found[1].kept, abs=1e-4)
    assert found[0].same == found[1].same


def test_a_model_that_does_not_run_on_made_inputs_says_so() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
            self.calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._check(x.shape[0] == 2)
            return self.b(torch.relu(self.a(x)))

    plan = graphprune.plan(Picky(), 0.5, compensate=False, example_inputs=torch.randn(2, 8))
    plan.apply()
    assert plan.report.agreement is not None  # runs of as many as were captured

    from graphprune.frontends.torch.program import ModuleProgram

    def fails(*_: Any) -> Any:
        raise RuntimeError("no such luck")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModuleProgram, "answers", fails)
        plan.apply()
    assert plan.report.agreement is None
    assert "not measured: no such luck" in str(plan.report)


def _chunks(*rows: torch.Tensor) -> list[list[torch.Tensor]]:
    return [[x] for x in rows]


def test_what_is_kept_is_one_less_the_relative_squared_error() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(1000, 3, generator=generator)
    error = torch.randn(1000, 3, generator=generator)
    found = compared(_chunks(y + 100), _chunks(y + 0.5 * error + 100), [True])
    assert found is not None
    kept, same, output = found
    assert kept == pytest.approx(0.75, abs=0.03)  # the mean of 100 counts for nothing
    assert same is not None and 0.5 < same < 1
    assert output is None


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ([[1.0], [2.0]], [[5.0], [5.0]], 0.0),  # worse than a constant
        ([[3.0], [3.0]], [[3.0], [3.0]], 1.0),  # constant
        ([[3.0], [3.0]], [[3.3], [3.3]], 0.99),  # constant: of its own size
        ([[0.0]], [[0.0]], 1.0),
        ([[-torch.inf, 1.0], [-torch.inf, 2.0]], [[-torch.inf, 1.0], [-torch.inf, 2.0]], 1.0),
        ([[1.0], [2.0]], [[1.0], [torch.nan]], 0.0),
    ],
)
def test_edges_of_what_is_kept(old: list[Any], new: list[Any], kept: float) -> None:
    found = compared(_chunks(torch.tensor(old)), _chunks(torch.tensor(new)), [False])
    assert found is not None and found[0] == pytest.approx(kept)


def test_whole_numbers_are_equal_or_not_and_the_worst_output_is_named() -> None:
    a = [[torch.tensor([1.0, 2.0]), torch.tensor([1, 2])]]
    b = [[torch.tensor([1.0, 2.0]), torch.tensor([1, 3])]]
    assert compared(a, b, [False, False]) == (0.5, None, 1)
    assert compared([[torch.ones(3)]], [[torch.ones(4)]], [False]) is None  # other boxes


def test_the_same_answer_throughout_tells_nothing() -> None:
    y = torch.tensor([[1.0, 0.0]] * 20)
    found = compared(_chunks(y), _chunks(y), [True])
    assert found is not None and found[1] is None


def test_equal_answers_count_first_on_real_inputs_only() -> None:
    real = Agreement(0.8, 0.95, 32, "inputs held out of data", True)
    made = Agreement(0.8, 0.95, 32, "noise inputs", False)
    assert (real.share, made.share) == (0.95, 0.8)
    report = graphprune.plan(_net(), 0.5, compensate=False).report
    report.agreement = made
    assert agreed(report).startswith("agreement: partial: outputs keep 80.0%")
    report.agreement = real
    assert agreed(report) == (
        "agreement: the same answer for 95.0% of 32 inputs held out of data; outputs keep 80.0% "
        "of their variation"
    )


def _batches(*sizes: int) -> list[Batch]:
    return [Batch((torch.arange(size),), samples=size) for size in sizes]


@pytest.mark.parametrize(
    ("sizes", "wanted", "seen", "unseen"),
    [
        ((32,) * 10, 256, 256, 64),  # what lies beyond
        ((32, 32, 32, 4), 256, 96, 4),  # the last eighth, whole batches of it
        ((96,), 256, 84, 12),  # cut where that is all
        ((16, 8), 256, 24, 0),  # too few to spare
        ((1000,), 256, 936, 64),
    ],
)
def test_what_is_held_out(sizes: tuple[int, ...], wanted: int, seen: int, unseen: int) -> None:
    found = held_out(_batches(*sizes), wanted, 2)
    assert tuple(sum(b.samples for b in part) for part in found) == (seen, unseen)
    assert unseen <= UNSEEN


def test_a_recording_is_not_cut() -> None:
    assert held_out(_batches(400), 256, 400)[1] == []
