"""Removal must equal masking, for every block, and the result must be a model like the first."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphprune
from graphprune.plans import Plan
from tests.blocks import BLOCKS, Inputs

EXPRESSIBLE = {"fixed width", "transformer", "shuffle", "odd shuffle"}  # may need generated code


# One of each kind of structure: these are compensated too, and shrunk by nothing; for the others
# the latter is slow.
KINDS = ["residual", "attention", "tied", "recurrent", "fixed width", "weight norm"]


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@dataclass
class Before:
    """What a model was like before it was shrunk."""

    state: dict[str, torch.Tensor]
    attributes: dict[str, dict[str, Any]]

    @staticmethod
    def of(model: nn.Module) -> Before:
        attributes = {name: dict(m.__dict__) for name, m in model.named_modules()}
        return Before(_state(model), attributes)

    def differences(self, model: nn.Module) -> list[tuple[str, str]]:
        """What of a model, which was in training mode, has changed."""
        out = [] if model.training else [("", "training")]
        state = model.state_dict()
        out += [
            (name, "value") for name, t in self.state.items() if not torch.equal(t, state[name])
        ]
        for name, module in model.named_modules():
            held = self.attributes[name]
            out += [(name, key) for key in module.__dict__.keys() ^ held.keys()]
            for key, value in held.items():
                found = module.__dict__.get(key)
                plain = isinstance(value, int | float | str | tuple)
                if plain and (type(found) is not type(value) or found != value):
                    out.append((name, key))
        return out


class Shrunk(NamedTuple):
    """A block, and what became of it."""

    name: str
    model: nn.Module
    inputs: Inputs
    plan: Plan[Any]
    small: nn.Module
    touched: list[tuple[str, str]]


@pytest.fixture(params=BLOCKS, scope="module")
def shrunk(request: pytest.FixtureRequest) -> Shrunk:
    """Every block is shrunk once, in training mode, in which it must stay; tests run it in eval."""
    torch.manual_seed(0)
    build, example = BLOCKS[request.param]
    model, inputs = build().train(), example()
    before = Before.of(model)
    how: dict[str, Any] = {"effort": "fast"} if request.param in KINDS else {"compensate": False}
    plan = graphprune.plan(model, 0.4, example_inputs=inputs, **how)
    small = plan.apply()
    touched = before.differences(model)
    return Shrunk(request.param, model.eval(), inputs, plan, small.eval(), touched)


def _forward(model: nn.Module, inputs: Inputs) -> Any:
    with torch.no_grad():
        return model(*inputs)


def test_removal_equals_masking_in_float64(shrunk: Shrunk) -> None:
    _, _, _, plan, _, _ = shrunk
    assert plan.report.verification.difference < 1e-12


def test_the_module_equals_the_rewritten_graph(shrunk: Shrunk) -> None:
    _, _, _, plan, _, _ = shrunk
    assert plan.report.verification.lowered < 1e-5


def test_the_budget_is_met(shrunk: Shrunk) -> None:
    name, model, _, plan, small, _ = shrunk
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    assert plan.report.params == (before, after)
    granularity = max(1 / row.size for row in plan.report.groups)
    assert abs(1 - after / before - 0.4) <= max(0.01, granularity / 2), name


def test_the_output_has_the_same_structure(shrunk: Shrunk) -> None:
    _, model, inputs, _, small, _ = shrunk
    before, after = _forward(model, inputs), _forward(small, inputs)
    assert pytree.tree_structure(before) == pytree.tree_structure(after)
    for a, b in zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype


def test_the_class_is_kept_where_its_code_can_express_the_widths(shrunk: Shrunk) -> None:
    name, model, _, plan, small, _ = shrunk
    if name not in EXPRESSIBLE:
        assert type(small) is type(model)
        assert not plan.report.replaced
    assert plan.report.kept_class == (type(small) is type(model))


def test_other_batch_sizes_work(shrunk: Shrunk) -> None:
    _, _, inputs, _, small, _ = shrunk
    more = tuple(torch.cat([x, x[:1]]) for x in inputs)
    for before, after in zip(
        pytree.tree_leaves(_forward(small, inputs)),
        pytree.tree_leaves(_forward(small, more)),
        strict=True,
    ):
        index = tuple(slice(0, size) for size in before.shape)
        torch.testing.assert_close(after[index], before, rtol=1e-4, atol=1e-5)


def test_training_continues(shrunk: Shrunk) -> None:
    _, _, inputs, _, small, _ = shrunk
    model = copy.deepcopy(small).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = _state(model)
    sum(y.square().mean() for y in pytree.tree_leaves(model(*inputs))).backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters())
    assert any(not torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_plan_fits_a_fresh_model_and_its_weights_load(shrunk: Shrunk, tmp_path: Any) -> None:
    name, _, inputs, plan, small, _ = shrunk
    plan.save(tmp_path / "plan.json")
    fresh = BLOCKS[name][0]().eval()
    other = graphprune.load_plan(tmp_path / "plan.json").apply(fresh)
    assert list(other.state_dict()) == list(small.state_dict())
    other.load_state_dict(small.state_dict())
    for a, b in zip(
        pytree.tree_leaves(_forward(other, inputs)),
        pytree.tree_leaves(_forward(small, inputs)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_result_can_be_saved(shrunk: Shrunk) -> None:
    _, _, inputs, _, small, _ = shrunk
    if any(nn.utils.parametrize.is_parametrized(m) for m in small.modules()):
        pytest.skip("torch saves parametrized modules by their state only")
    again = pickle.loads(pickle.dumps(small))
    for a, b in zip(
        pytree.tree_leaves(_forward(again, inputs)),
        pytree.tree_leaves(_forward(small, inputs)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_input_model_is_untouched(shrunk: Shrunk) -> None:
    assert shrunk.touched == []


@pytest.mark.parametrize(
    "name",
    [n if n in KINDS else pytest.param(n, marks=pytest.mark.slow) for n in BLOCKS],
)
def test_nothing_removed_changes_nothing(name: str) -> None:
    build, example = BLOCKS[name]
    model, inputs = build().eval(), example()
    same = graphprune.shrink(model, 0.0, example_inputs=inputs)
    assert type(same) is type(model)
    for a, b in zip(
        pytree.tree_leaves(_forward(model, inputs)),
        pytree.tree_leaves(_forward(same, inputs)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
