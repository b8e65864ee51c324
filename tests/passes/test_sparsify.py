"""Zeros in weights: as many as asked for, where the pattern says, the others making up for them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import graphprune
from graphprune.core.edits import edit_of
from graphprune.core.errors import BudgetError, OptionError, PassError, PlanError
from graphprune.core.within import Mask
from graphprune.frontends.onnx.whole import run_model
from graphprune.sparsity import spread
from graphprune.sparsity.layers import View, find_layers
from graphprune.sparsity.patterns import Pattern, pattern_of
from graphprune.sparsity.reads import Reads
from graphprune.sparsity.solve import Problem, alternated, settled
from graphprune.statistics.moments import Moments
from tests.frontends.onnx.exports import export, graph, normal, run


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, groups=4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4),
    ).eval()  # fmt: skip


X = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
SIZE = 16 * 8 * 18 + 32 * 4 * 16 + 16 * 32  # of the three layers between the first and the last


def _zeros(model: nn.Module) -> int:
    return sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1)


def _off(sparse: nn.Module, dense: nn.Module) -> float:
    with torch.no_grad():
        return _gap(sparse(X), dense)


def _gap(found: torch.Tensor, dense: nn.Module) -> float:
    with torch.no_grad():
        wanted = dense(X)
        return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4:8", "block:2x4"])
def test_zeros_are_as_many_as_asked_for_and_lie_as_the_pattern_says(pattern: str) -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())
    plan = graphprune.plan_sparsity(net, pattern=pattern, data=X)
    sparse = plan.apply()
    assert type(sparse) is type(net)
    assert _zeros(sparse) == SIZE // 2
    found = plan.report.sparsity
    assert found is not None and (found.zeros, found.size) == (SIZE // 2, SIZE)
    layers = find_layers(graphprune.analyze(net, X[:2]), pattern_of(pattern))
    for layer in layers.layers:
        held = sparse.get_parameter(layer.weight.name)
        assert pattern_of(pattern).holds(layer.view.rows(held.detach() != 0))
    assert all(torch.equal(before[name], held) for name, held in net.state_dict().items())


def test_what_stays_makes_up_and_chosen_together_it_does_so_best() -> None:
    net = _net()
    off = {
        (name, solves): _off(
            graphprune.sparsify(
                net, 0.6, data=X, importance=name, spread="uniform", compensate=solves
            ),
            net,
        )
        for name in ("random", "magnitude", "wanda", "obs")
        for solves in (True, False)
    }
    assert all(off[name, True] < off[name, False] for name in ("random", "magnitude", "wanda"))
    assert off["obs", True] == min(off.values())


@pytest.mark.parametrize("how", ["uniform", "global", "lamp", "erk", "loss"])
def test_every_spread_meets_the_ratio_to_the_number(how: str) -> None:
    plan = graphprune.plan_sparsity(_net(), 0.3, spread=how, keep=(), data=X)
    found = plan.report.sparsity
    assert found is not None
    assert found.zeros == round(0.3 * found.size)
    assert len(found.layers) == 5 and not found.left


def test_a_file_is_treated_as_the_module_it_was_exported_from() -> None:
    net = _net()
    model = export(net, (X[:2],), input_names=["x"], dynamic_axes={"x": {0: "n"}})
    plan = graphprune.plan_sparsity(model, 0.5, "2:4", data=X.numpy())
    made = plan.apply()
    onnx.checker.check_model(made)
    assert plan.report.left == {}
    held = {i.name: torch.tensor(numpy_helper.to_array(i)) for i in made.graph.initializer}
    assert sum(int((a == 0).sum()) for a in held.values() if a.dim() > 1) == SIZE // 2
    before = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    assert not any((a == 0).any() for a in before.values() if a.ndim > 1)
    found = run_model(made, {"x": X.numpy()})[0]
    assert _gap(torch.tensor(found), net) < 0.5 * _gap(
        graphprune.sparsify(net, 0.5, "2:4", importance="magnitude", compensate=False)(X), net
    )


def test_a_plan_travels_and_fits_another_instance(tmp_path: Path) -> None:
    net = _net()
    plan = graphprune.plan_sparsity(net, 0.5, data=X)
    sparse = plan.apply()
    plan.save(tmp_path / "plan.json")
    again = graphprune.load_plan(tmp_path / "plan.json").apply(_net(), data=X)
    for name, held in sparse.named_parameters():
        if held.dim() > 1 and name not in ("0.weight", "11.weight"):
            assert torch.equal(held == 0, again.get_parameter(name) == 0)
    assert _off(again, net) == pytest.approx(_off(sparse, net), rel=0.05)


def test_a_mask_changed_by_hand_is_what_is_applied() -> None:
    plan = graphprune.plan_sparsity(_net(), 0.5, compensate=False, example_inputs=X[:2])
    mask = next(e for e in plan.edits if isinstance(e, Mask) and e.weight == "9.weight")
    mask.kept[:] = True
    mask.kept[0] = False
    sparse = plan.apply()
    assert torch.equal((sparse[9].weight == 0).all(1), torch.arange(32) == 0)


def test_masks_of_pytorch_hold_the_zeros_in_training() -> None:
    net = _net()
    masked = graphprune.sparsify(net, 0.5, form="masks", data=X)
    plain = graphprune.sparsify(net, 0.5, data=X)
    with torch.no_grad():
        assert torch.equal(masked(X), plain(X))
    masked(X).sum().backward()
    step = torch.optim.SGD(masked.parameters(), 0.1)
    step.step()
    masked(X)
    assert torch.equal(masked[9].weight == 0, masked[9].weight_mask == 0)


def test_forms_that_cannot_be_are_refused_by_name() -> None:
    with pytest.raises(OptionError, match=r"needs pattern='2:4', not 'unstructured'"):
        graphprune.sparsify(_net(), form="semi_structured")
    with pytest.raises(OptionError, match=r"needs a CUDA device .* this model is on cpu"):
        graphprune.sparsify(_net(), pattern="2:4", form="semi_structured")
    with pytest.raises(OptionError, match=r"form='masks' needs a torch.nn.Module, not a str"):
        graphprune.sparsify("net.onnx", form="masks")


class _Tied(nn.Module):
    """A table, two uses of one layer, and a head that shares the table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(16, 8)
        self.first, self.twice = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.first(self.table(x)))
        return self.head(torch.relu(self.twice(torch.relu(self.twice(h)))))


def test_tables_are_left_alone_and_shared_weights_stay_shared() -> None:
    x = torch.randint(16, (24, 5))
    plan = graphprune.plan_sparsity(_Tied().eval(), 0.5, data=x, compensate=True)
    sparse = plan.apply()
    found = plan.report.sparsity
    assert found is not None
    assert found.left == {"table.weight": "it is a table of embeddings too"}
    assert [row.zeros for row in found.layers if row.name == "twice.weight"] != [0]
    assert sparse.head.weight is sparse.table.weight
    assert plan.report.left == {}


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.lstm = nn.Embedding(9, 8), nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.table(x))[0])


def test_recurrent_weights_become_sparse() -> None:
    net, x = _Recurrent().eval(), torch.randint(9, (16, 6))
    plan = graphprune.plan_sparsity(net, 0.5, keep=["head"], data=x)
    sparse = plan.apply()
    assert {row.name for row in plan.report.sparsity.layers} == {  # type: ignore[union-attr]
        "lstm.weight_ih_l0", "lstm.weight_hh_l0",
    }  # fmt: skip
    assert _zeros(sparse) == 64 * 24 // 2
    masked = graphprune.sparsify(net, 0.5, form="masks", keep=["head"], data=x)
    with torch.no_grad():
        torch.testing.assert_close(masked(x), sparse(x))


@pytest.mark.parametrize("gone", [0, 1, 7, 23, 40])
@pytest.mark.parametrize("seed", range(4))
def test_of_equal_scores_the_first_go_and_what_is_no_number_stays(seed: int, gone: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (8, 5), generator=draw).float()
    scores[seed, 2], scores[3, 1] = float("nan"), float("inf")
    order = scores.flatten().argsort(stable=True)
    wanted = torch.ones(40, dtype=torch.bool).index_fill(0, order[:gone], False)
    assert torch.equal(Pattern().choose(scores, gone).flatten(), wanted)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ratio": 0.3, "pattern": "2:4"}, "makes 50.0% of each layer zero, not 30.0%"),
        ({"ratio": 1.0}, "0 < ratio < 1, not 1.0"),
        ({"pattern": "4:2"}, "of 2 numbers, 1 to 1 can stay"),
        ({"pattern": "blocks"}, "no pattern 'blocks': choose 'unstructured', 'N:M'"),
        ({"pattern": "2:4", "spread": "erk"}, "leave out spread"),
        ({"importance": "wand"}, "did you mean 'wanda'"),
        ({"form": "mask"}, "did you mean 'masks'"),
        ({"rati": 0.5}, "sparsify has no option 'rati'"),
        ({"spread": "loss", "compensate": False}, "spread='loss' needs statistics"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        graphprune.sparsify(_net(), **options)


def test_a_model_without_a_layer_that_fits_says_why() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    with pytest.raises(BudgetError, match=r"0\.weight: its 6 channels are no multiple of 4"):
        graphprune.sparsify(net, pattern="2:4")


def test_masks_and_fewer_channels_in_one_plan_are_refused() -> None:
    net = _net()
    plan: Any = graphprune.plan_sparsity(net, 0.5, compensate=False, example_inputs=X[:2])
    plan.groups[-1].keep = np.arange(8)
    with pytest.raises(PassError, match=r"graphprune.sparsify\(graphprune.shrink\(model\)\)"):
        plan.apply()


def test_masks_travel_as_plain_data() -> None:
    edit = Mask("a", np.arange(21).reshape(3, 7) % 2 == 0, "block:1x1")
    again = edit_of(edit.as_dict())
    assert isinstance(again, Mask)
    assert np.array_equal(again.kept, edit.kept) and again.pattern == edit.pattern
    for broken in ({}, {"kept": "!"}, {"shape": [4, 7]}, {"kept": "AAAA"}):
        data = {**edit.as_dict(), **broken} if broken else {"kind": "mask"}
        with pytest.raises(PlanError):
            edit_of(data)
    with pytest.raises(PlanError, match=r"in a of shape .* this model has no such weight"):
        edit.check(graphprune.analyze(nn.Linear(4, 4), torch.randn(2, 4)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, 2, 1, dilation=2, groups=2),
        nn.Conv1d(4, 6, 5, padding="same"),
        nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2),
        nn.Linear(4, 6),
    ],
)
def test_what_a_layer_reads_times_its_matrix_is_what_it_computes(layer: nn.Module) -> None:
    layer = layer.double()
    shape = {nn.Conv1d: (2, 4, 9), nn.Linear: (3, 5, 4)}.get(type(layer), (2, 4, 7, 7))
    x = torch.randn(shape, dtype=torch.float64)
    deps = graphprune.analyze(nn.Sequential(layer), x)
    (found,) = find_layers(deps, Pattern(), ()).layers
    view = found.view
    weight = layer.get_parameter("weight")
    assert torch.equal(view.weight(view.rows(weight)), weight)
    moments = Moments()
    reads = Reads(deps, {}, len(x), torch.float64)
    reads.gather(found.consumers[0], view, [(x, x)], moments)
    own = moments.second(central=False)[1]
    rows = view.rows(weight).view(view.groups, -1, view.columns)
    power = ((rows @ own) * rows).sum((0, 2)).sum()
    bias = layer.get_parameter("bias")
    at = -1 if isinstance(layer, nn.Linear) else 1
    y = layer(x).movedim(at, -1) - bias
    torch.testing.assert_close(power, y.square().sum(-1).mean())


def test_conjugate_gradients_find_the_least_squares() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(64, 12, dtype=torch.float64), torch.randn(1, 5, 12).double()
    own = (x.T @ x)[None] / 64
    problem = Problem(weight, own, torch.ones(1, 5).double())
    kept = torch.rand(5, 12) > 0.5
    found = settled(problem, weight, kept)
    for row, mask, wanted in zip(found[0], kept, weight[0], strict=True):
        best = torch.linalg.lstsq(x[:, mask], x @ wanted).solution
        torch.testing.assert_close(row[mask], best, rtol=1e-4, atol=1e-5)
        assert not row[~mask].any()
    start, chosen = alternated(problem, Pattern(), 30)
    assert int((~chosen).sum()) == 30
    others = Pattern().choose(problem.saliencies().flatten(0, 1), 30)
    assert problem.error(settled(problem, start, chosen)) <= problem.error(
        settled(problem, weight, others)
    )


def test_spreads_are_exact() -> None:
    sizes = np.array([10, 100, 1000])
    for total in (1, 7, 555, 1107):
        assert spread.uniform(sizes, total).sum() == total
        assert spread.erk([(2, 5), (10, 10), (10, 100)], sizes, total).sum() == total
        scores = [torch.rand(n) for n in sizes]
        assert spread.least(scores, total).sum() == total
        curves = [np.linspace(0, 1, spread.STEPS + 1)[1:] ** 3 * k for k in (1.0, 2.0, 3.0)]
        assert spread.priced(curves, sizes, total).sum() == total
    with pytest.raises(BudgetError, match="a unit of each layer stays"):
        spread.uniform(sizes, 1109)
    scores = [torch.arange(10.0), torch.arange(100.0) + 5]
    assert list(spread.least(scores, 7)) == [6, 1]


def test_a_view_of_several_matrices_goes_both_ways() -> None:
    weight = torch.randn(3, 4, 5)
    view = View((3, 4, 5), 1, plain=False)
    assert view.rows(weight).shape == (15, 4)
    assert torch.equal(view.weight(view.rows(weight)), weight)


def test_recalibration_keeps_the_zeros() -> None:
    sparse = graphprune.sparsify(_net(), 0.5, data=X)
    again = graphprune.recalibrate(sparse, X + 0.5)
    assert torch.equal(again[9].weight == 0, sparse[9].weight == 0)
    assert not torch.equal(again[9].weight, sparse[9].weight)


def test_the_passes_run_by_name() -> None:
    plan = graphprune.plan(_net(), passes=["couple", "share_zeros", "mask", "lower", "write_zeros"],
                           compensate=False, example_inputs=X[:2])  # fmt: skip
    assert _zeros(plan.apply()) == SIZE // 2


def test_the_report_tells_how_far_a_sparse_model_answers_as_the_original_does() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5)
    )
    plan = graphprune.plan_sparsity(net, 0.5, data=torch.randn(400, 12))
    plan.apply()
    assert plan.report.agreement.real and 0.3 < plan.report.agreement.kept < 1
    unchecked = graphprune.plan_sparsity(net, 0.5, data=torch.randn(32, 12), verify=False)
    unchecked.apply()
    found = unchecked.report.agreement
    assert found is not None and not found.real, "so few samples are held out of nothing"


def test_biases_that_a_file_computes_or_multiplies_take_constants() -> None:
    """As for `shrink`: a bias that is laid along a dimension, and one with a factor of its own."""
    weights = {
        "w1": normal(16, 3, 1, 1), "b1": 3 + normal(16), "shape": np.array([1, -1, 1, 1]),
        "w2": normal(6, 16), "b2": normal(6),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"]),
        helper.make_node("Reshape", ["b1", "shape"], ["laid"]),
        helper.make_node("Add", ["a", "laid"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w2", "b2"], ["y"], transB=1, alpha=3.0, beta=-0.5),
    ]
    model = graph(nodes, weights, {"x": ["n", 3, 4, 4]}, {"y": ["n", 6]})
    data = 2 + normal(128, 3, 4, 4)
    sparse = graphprune.sparsify(model, 0.5, data=data, keep=())
    wanted, found = (run(m, x=data)[0] for m in (model, sparse))
    off = np.abs((found - wanted).mean(0))
    assert (off < 0.1 * np.abs(wanted - wanted.mean(0)).mean()).all()


def test_recurrent_layers_of_files_make_up_for_zeros() -> None:
    units = 8
    weights = {
        "w": 0.5 * normal(1, 4 * units, 12), "r": 0.3 * normal(1, 4 * units, units),
        "b": 0.2 * normal(1, 8 * units),
    }  # fmt: skip
    nodes = [helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=units)]
    model = graph(nodes, weights, {"x": ["t", "n", 12]}, {"y": ["t", 1, "n", units]})
    data = np.einsum("tnc,cd->tnd", normal(6, 96, 3), normal(3, 12))  # mixtures of three
    lost = []
    for more in ({"data": data}, {"compensate": False}):
        sparse = graphprune.sparsify(model, 0.5, keep=(), **more)
        wanted, found = (run(m, x=data)[0] for m in (model, sparse))
        lost.append(float(np.square(found - wanted).sum() / np.square(wanted).sum()))
    assert lost[0] < 0.25 * lost[1]
