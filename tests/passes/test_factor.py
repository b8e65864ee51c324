"""Two layers in a row in place of one: as many parameters as asked for, the same as the product."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import graphprune
from graphprune.core.edits import edit_of
from graphprune.core.errors import BudgetError, OptionError, PassError, PlanError
from graphprune.core.within import Rank
from graphprune.costs.counted import Polynomial
from graphprune.costs.either import Alternative, Either
from graphprune.frontends.onnx.whole import run_model
from graphprune.frontends.torch.split import read_elsewhere
from graphprune.lowrank.factoring import factored, spectrum
from graphprune.sparsity.solve import Problem
from tests.frontends.onnx.exports import export

X = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, groups=4), nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=2, dilation=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 4),
    ).eval()  # fmt: skip


LAYERS = {"3.weight": (32, 8, 3, 3), "5.weight": (32, 4, 4, 4), "7.weight": (24, 16, 3, 3),
          "11.weight": (32, 24)}  # fmt: skip
FULL = {"3.weight": 16, "5.weight": 4, "7.weight": 24, "11.weight": 24}


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _apart(one: Any, other: Any) -> float:
    with torch.no_grad():
        found, wanted = one(X), other(X)
    return float((found - wanted).norm() / wanted.norm())


def _plan(net: Any, **options: Any) -> graphprune.Plan[Any]:
    given = {"example_inputs": X[:2], "data": X, "passes": graphprune.FACTOR, **options}
    return graphprune.plan(net, **given)


@pytest.fixture(scope="module")
def halved() -> tuple[nn.Module, graphprune.Plan[Any], nn.Module]:
    net = _net()
    plan = _plan(net, ratio=0.4)
    return net, plan, plan.apply()


def test_so_many_parameters_go_as_asked_for_and_the_report_counts_them(halved: Any) -> None:
    net, plan, small = halved
    assert plan.report.params == (_size(net), _size(small))
    assert _size(small) == pytest.approx(0.6 * _size(net), rel=0.02)
    rows = {row.name: row.rank for row in plan.report.ranks.layers}
    assert rows == {edit.weight: edit.rank for edit in plan.edits if isinstance(edit, Rank)}
    assert "names: 3.0 and 3.1 stand for 3 now" in str(plan.report)


def test_two_layers_are_checked_against_their_product_in_both_modes(halved: Any) -> None:
    _, plan, small = halved
    assert "largest relative difference to the products" in plan.report.passes[-3].note
    assert isinstance(small[3], nn.Sequential)
    assert small[3][0].stride == (2, 2)
    assert small[7].out_channels == 24  # what other code may ask the layer for
    broken = copy.deepcopy(small)
    broken[7][1].weight.data *= 1.01
    program, lowered = plan.work.program, plan.work.lowered
    with pytest.raises(graphprune.VerifyError, match="differs"):
        program.equal(lowered, type(lowered)(broken), 0)


def test_at_full_rank_outputs_are_the_same(halved: Any) -> None:
    net = halved[0]
    plan = copy.copy(halved[1])
    whole = [edit for edit in plan.edits if not isinstance(edit, Rank)]
    plan.edits = [*whole, *(Rank(name, LAYERS[name], rank) for name, rank in FULL.items())]
    assert _apart(plan.apply(), net) < 1e-5


def test_macs_are_met_as_well() -> None:
    net = _net()
    plan = _plan(net, ratio=0.3, of="macs", verify=False)
    before, after = plan.report.macs
    assert after == pytest.approx(0.7 * before, rel=0.02)
    assert graphprune.analyze(plan.apply(), X[:2]) is not None


def test_a_saved_plan_fits_a_fresh_model(halved: Any, tmp_path: Path) -> None:
    net, plan, small = halved
    plan.save(tmp_path / "plan.json")
    loaded = graphprune.load_plan(tmp_path / "plan.json")
    again = loaded.apply(copy.deepcopy(net), data=X)
    assert _apart(again, small) < 1e-4
    assert loaded.report.params == plan.report.params
    wrong = edit_of(plan.edits[-1].as_dict())
    assert wrong == plan.edits[-1]


def test_a_file_gets_two_nodes() -> None:
    net = _net()
    model = export(net, (X,))
    first, *_, last = (node for node in model.graph.node if node.op_type in ("Conv", "Gemm"))
    last.name = f"{first.name}_1"  # as exporters number nodes
    plan = graphprune.plan(model, 0.4, passes=graphprune.FACTOR, data=X.numpy())
    small = plan.apply()
    onnx.checker.check_model(small, full_check=True)
    nodes = [len(m.graph.node) for m in (model, small)]
    assert nodes[1] == nodes[0] + len(plan.report.ranks.layers)
    assert graphprune.report_of(small).ranks == plan.report.ranks
    held = sum(int(np.prod(t.dims)) for t in small.graph.initializer if len(t.dims) > 1)
    assert held < 0.65 * _size(net)
    (found,) = run_model(small, {model.graph.input[0].name: X.numpy()})
    with torch.no_grad():
        wanted = net(X)
    assert float((torch.as_tensor(found) - wanted).norm() / wanted.norm()) < 0.1


def test_what_layers_read_decides_which_directions_stay() -> None:
    torch.manual_seed(0)
    weight, mix = torch.randn(1, 12, 8).double(), torch.randn(8, 8).double()
    own = (mix @ mix.T + torch.eye(8)).unsqueeze(0)
    counts = torch.rand(1, 12).double() + 0.1
    problem = Problem(weight, own, counts)
    wide = Problem(weight.mT.contiguous(), torch.eye(12).double()[None], counts[:, :8])
    for held in (problem, wide):
        lost = spectrum(held).energies
        for rank in (1, 3, 8):
            first, second = factored(held, rank)
            assert held.error(second @ first) == pytest.approx(lost[rank:].sum(), abs=1e-9)
    plain = Problem(weight, torch.eye(8).double()[None], torch.ones(1, 12).double())
    first, second = factored(plain, 3)
    assert problem.error(second @ first) > spectrum(problem).energies[3:].sum()


def test_either_cost_is_that_of_the_cheaper() -> None:
    one, two = Polynomial({(0,): 6.0}, 2), Polynomial({(0, 1): 1.0, (1,): 3.0}, 2)
    cost = Either(Polynomial({(): 5.0}, 2), [Alternative(1, one, two)])
    for counts in ([4.0, 2.0], [4.0, 9.0], [1.0, 2.0]):
        at = np.array(counts)
        n, r = counts
        assert cost(at) == 5 + min(6 * n, r * (n + 3))
        assert cost(at) + cost.change(at, 1, 1.0) == cost(np.array([n, 1.0]))
    assert cost.slopes(np.array([4.0, 9.0])).tolist() == [6.0, 7.0]


class _Owner(nn.Module):
    """A module whose code reads a layer's weight, and one that calls a function on it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(32, 32) for _ in range(3))
        self.tied = nn.Linear(32, 32)
        self.tied.weight = self.third.weight
        self.free = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.to(self.first.weight.dtype))
        x = torch.relu(nn.functional.linear(x, self.second.weight, self.second.bias))
        return self.free(torch.relu(self.tied(torch.relu(self.third(x)))))


def test_layers_that_other_code_reads_stay_whole_by_name() -> None:
    torch.manual_seed(0)
    net, x = _Owner(), torch.randn(4, 32)
    assert read_elsewhere(net, ((x,), {}), dict.fromkeys(["first", "second", "free"])) == {
        "first",
        "second",
    }
    assert type(net.first) is nn.Linear
    plan = _plan(net, ratio=0.1, data=None, compensate=False, example_inputs=x)
    assert [edit.weight for edit in plan.edits if isinstance(edit, Rank)] == ["free.weight"]
    left = plan.report.ranks.left
    assert left["first.weight"] == "code outside of first reads its weight"
    assert left["second.weight"] == "the model reads it, not second itself"
    assert left["third.weight"] == "several operations read it"


def test_attention_keeps_its_projections() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True).eval()
    plan = graphprune.plan(
        nn.Sequential(block, nn.Linear(32, 32)), 0.05, passes=graphprune.FACTOR,
        example_inputs=torch.randn(2, 5, 32), compensate=False, verify=False,
    )  # fmt: skip
    left = plan.report.ranks.left
    assert "0.self_attn reads it" in left["0.self_attn.out_proj.weight"]
    assert left["0.linear1.weight"] == "code outside of 0.linear1 reads its weight"


def _narrow() -> tuple[nn.Module, torch.Tensor]:
    """A network whose inputs and hidden layers hold less than their widths say."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 24)
    )
    return net.eval(), torch.randn(256, 6) @ torch.randn(6, 24)


@pytest.mark.parametrize("file", [False, True])
def test_widths_and_ranks_share_a_budget(file: bool, tmp_path: Path) -> None:
    net, x = _narrow()
    given: Any = export(net, (x,)) if file else net
    data: Any = x.numpy() if file else x
    plan = graphprune.plan(given, 0.6, passes=graphprune.BOTH, data=data, effort="fast")
    small = plan.apply()
    before, after = plan.report.params
    assert after == pytest.approx(0.4 * before, rel=0.03)
    assert any(row.kept < row.size for row in plan.report.groups)
    assert plan.report.ranks.layers
    assert plan.report.verification.exact
    if file:
        held = sum(int(np.prod(t.dims)) for t in small.graph.initializer)
        (found,) = run_model(small, {given.graph.input[0].name: data})
    else:
        held, found = _size(small), small(x).detach()
        plan.save(tmp_path / "plan.json")
        again = graphprune.load_plan(tmp_path / "plan.json").apply(net, data=x)
        assert [p.shape for p in again.parameters()] == [p.shape for p in small.parameters()]
    assert held == after
    with torch.no_grad():
        wanted = net(x)
        gap = torch.as_tensor(found) - wanted
    assert float(gap.norm() / wanted.norm()) < 0.5


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"ratio": 0.4, "of": "memory"}, OptionError, "params and macs"),
        ({"importance": "mu-2sigma"}, OptionError, "chooses no ranks"),
        ({"ratio": 0.999}, BudgetError, "cannot be reached"),
        ({"ratio": 0.4, "keep": ["*"]}, BudgetError, "no layer can become two"),
    ],
)
def test_what_cannot_be_is_refused(options: Any, error: type[Exception], text: str) -> None:
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
    given = {"example_inputs": torch.randn(2, 16), "data": None, "compensate": False, **options}
    with pytest.raises(error, match=text):
        _plan(net, **given)


def test_ranks_that_cannot_be_are_refused(halved: Any) -> None:
    plan = copy.copy(halved[1])
    for edit, text in (
        (Rank("3.weight", (32, 8, 3, 3), 17), "ranks run from 1 to 16"),
        (Rank("3.weight", (32, 8, 3, 3), 0), "ranks run from 1"),
        (Rank("3.weight", (32, 8, 3, 1), 4), "another model"),
        (Rank("1.weight", (16,), 1), "a row of numbers"),
    ):
        plan.edits = [*halved[1].groups, edit]
        with pytest.raises(PlanError, match=text):
            plan.apply()
    with pytest.raises(OptionError, match="factor has no option 'ratios'"):
        graphprune.factor(halved[0], 0.5, ratios={"3": 0.5})
    with pytest.raises(PassError, match="requires ranks"):
        graphprune.Pipeline(["couple", "choose_ranks"])


def test_no_second_layer_is_cut_only_to_come_nearer_to_the_budget() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(),
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10),
    ).eval()  # fmt: skip
    with torch.no_grad():
        net[4].weight.copy_(torch.randn(64, 6) @ torch.randn(6, 64) / 20)
    plan = graphprune.plan(net, 0.2, passes=graphprune.FACTOR, data=[torch.randn(256, 32)])
    plan.apply()
    assert plan.report.achieved == pytest.approx(0.2, abs=0.005)
    assert [edit.weight for edit in plan.edits if isinstance(edit, Rank)] == ["4.weight"]
    assert plan.report.agreement.kept > 0.999
