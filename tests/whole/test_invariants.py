"""Removal must equal masking, for every block, and the result must be a model like the first."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphprune
from graphprune.plan import Plan
from tests.blocks import BLOCKS, Inputs

EXPRESSIBLE = {"fixed width", "transformer", "shuffle", "odd shuffle"}  # may need generated code


@pytest.fixture(params=BLOCKS, scope="module")
def shrunk(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Inputs, Plan[Any], nn.Module]:
    torch.manual_seed(0)
    build, example = BLOCKS[request.param]
    model, inputs = build().eval(), example()
    plan = graphprune.plan(model, 0.4, example_inputs=inputs)
    return request.param, model, inputs, plan, plan.apply()


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _forward(model: nn.Module, inputs: Inputs) -> Any:
    with torch.no_grad():
        return model(*inputs)


def test_removal_equals_masking_in_float64(shrunk: Any) -> None:
    _, _, _, plan, _ = shrunk
    assert plan.report.verification.difference < 1e-12


def test_the_module_equals_the_rewritten_graph(shrunk: Any) -> None:
    _, _, _, plan, _ = shrunk
    assert plan.report.verification.lowered < 1e-5


def test_the_budget_is_met(shrunk: Any) -> None:
    name, model, _, plan, small = shrunk
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, small))
    assert plan.report.params == (before, after)
    granularity = max(1 / row.size for row in plan.report.groups)
    assert abs(1 - after / before - 0.4) <= max(0.01, granularity / 2), name


def test_the_output_has_the_same_structure(shrunk: Any) -> None:
    _, model, inputs, _, small = shrunk
    before, after = _forward(model, inputs), _forward(small, inputs)
    assert pytree.tree_structure(before) == pytree.tree_structure(after)
    for a, b in zip(pytree.tree_leaves(before), pytree.tree_leaves(after), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype


def test_the_class_is_kept_where_its_code_can_express_the_widths(shrunk: Any) -> None:
    name, model, _, plan, small = shrunk
    if name not in EXPRESSIBLE:
        assert type(small) is type(model)
        assert not plan.report.replaced
    assert plan.report.kept_class == (type(small) is type(model))


def test_other_batch_sizes_work(shrunk: Any) -> None:
    _, _, inputs, _, small = shrunk
    more = tuple(torch.cat([x, x[:1]]) for x in inputs)
    for before, after in zip(
        pytree.tree_leaves(_forward(small, inputs)),
        pytree.tree_leaves(_forward(small, more)),
        strict=True,
    ):
        index = tuple(slice(0, size) for size in before.shape)
        torch.testing.assert_close(after[index], before, rtol=1e-4, atol=1e-5)


def test_training_continues(shrunk: Any) -> None:
    _, _, inputs, _, small = shrunk
    model = copy.deepcopy(small).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = _state(model)
    sum(y.square().mean() for y in pytree.tree_leaves(model(*inputs))).backward()
    optimizer.step()
    assert all(p.grad is not None for p in model.parameters())
    assert any(not torch.equal(before[name], p) for name, p in model.named_parameters())


def test_a_plan_fits_a_fresh_model_and_its_weights_load(shrunk: Any, tmp_path: Any) -> None:
    name, _, inputs, plan, small = shrunk
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


def test_the_result_can_be_saved(shrunk: Any) -> None:
    _, _, inputs, _, small = shrunk
    if any(nn.utils.parametrize.is_parametrized(m) for m in small.modules()):
        pytest.skip("torch saves parametrized modules by their state only")
    again = pickle.loads(pickle.dumps(small))
    for a, b in zip(
        pytree.tree_leaves(_forward(again, inputs)),
        pytree.tree_leaves(_forward(small, inputs)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_the_input_model_is_untouched() -> None:
    for build, example in BLOCKS.values():
        model, inputs = build().train(), example()
        before = _state(model)
        attributes = {name: dict(m.__dict__) for name, m in model.named_modules()}
        graphprune.shrink(model, 0.3, example_inputs=inputs)
        assert model.training
        assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
        for name, module in model.named_modules():
            assert module.__dict__.keys() == attributes[name].keys()
            for key, held in attributes[name].items():
                if isinstance(held, int | float | str | tuple):
                    assert type(module.__dict__[key]) is type(held), (name, key)
                    assert module.__dict__[key] == held, (name, key)


def test_nothing_removed_changes_nothing() -> None:
    for build, example in BLOCKS.values():
        model, inputs = build().eval(), example()
        same = graphprune.shrink(model, 0.0, example_inputs=inputs)
        assert type(same) is type(model)
        for a, b in zip(
            pytree.tree_leaves(_forward(model, inputs)),
            pytree.tree_leaves(_forward(same, inputs)),
            strict=True,
        ):
            torch.testing.assert_close(a, b)
