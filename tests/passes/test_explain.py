"""Why two layers are coupled, as a path through the operations between them."""

from __future__ import annotations

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import AxisError, Dependencies
from graphprune.core.explain import TOLD
from tests.blocks import BLOCKS


@pytest.fixture(scope="module")
def deps() -> Dependencies:
    build, example = BLOCKS["residual"]
    return graphprune.analyze(build(), example())


def test_the_chain_names_the_operations(deps: Dependencies) -> None:
    lines = deps.why("stem.0", "conv2")
    assert lines[0] == "stem.0 and conv2 lose the same indices, for one reason:"
    assert lines[3] == "stem.0.weight[0]"
    assert lines[-1].startswith("conv2.")
    assert any("aten.add" in line for line in lines)


def test_nothing_couples_the_two_sides_of_a_convolution(deps: Dependencies) -> None:
    assert deps.why("conv1.weight[0]", "conv1.weight[1]") == []


def test_one_dimension_can_be_named(deps: Dependencies) -> None:
    assert deps.why("conv1.weight[0]", "conv2.weight[1]")[-1] == "conv2.weight[1]"


def test_an_unknown_name_is_an_error(deps: Dependencies) -> None:
    with pytest.raises(AxisError, match="'conv9'"):
        deps.why("conv9", "conv1")


class Ways(nn.Module):
    """Two ways from one layer to another, through two depthwise layers and past each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 6)
        self.scales = nn.ParameterList([torch.ones(6), torch.ones(6)])
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for scale in self.scales:
            x = (x * scale).sin() + x.cos().tanh()
        out: Tensor = self.head(x + self.last(x).relu())
        return out


def test_every_way_is_told_once_and_not_every_mixture_of_ways() -> None:
    deps = graphprune.analyze(Ways(), torch.randn(3, 4))
    (found,) = deps.reasons("first.weight[0]", "last.weight[0]")
    ways = [{step.op.name for step in reason.steps} for reason in found.told]
    assert len(ways) == 2, "four mixtures, but two take every operation"
    assert set.union(*ways) >= {"mul", "sin", "cos", "tanh", "mul_1", "sin_1", "cos_1", "tanh_1"}
    assert [op.name for op in found.needed] == ["add", "add_1", "add_2", "relu"]
    assert found.left == 0
    told = deps.why("first.weight[0]", "last.weight[0]")
    assert told[0].endswith("for 2 independent reasons:")
    assert told[2] == "1. both hold the 6 indices of first.weight[0]:"
    assert told[-1].startswith(
        "all chains by first.weight[0] take aten.add (add), aten.add (add_1)"
    )


class Many(nn.Module):
    """Ten ways from one layer to another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        ways = [(x + i).sin() for i in range(10)]
        out: Tensor = self.last(torch.stack(ways).sum(0))
        return out


def test_reasons_that_are_not_told_are_counted() -> None:
    deps = graphprune.analyze(Many(), torch.randn(3, 4))
    (found,) = deps.reasons("first", "last")
    assert (len(found.told), found.left) == (TOLD, 10 - TOLD)
    lines = deps.why("first", "last")
    assert lines[0] == "first and last lose the same indices, for 10 independent reasons:"
    assert "and 2 more by first.weight[0]" in lines


def test_edges_carry_operations_and_nodes_their_groups(deps: Dependencies) -> None:
    assert isinstance(deps.graph, nx.Graph)
    kinds = nx.get_edge_attributes(deps.graph, "type")
    assert "aten.batch_norm" in kinds.values()
    for group in deps.groups:
        for member in group.members:
            node = (member.weight.name, member.dim)
            assert group.id in deps.graph.nodes[node]["groups"]


def test_a_group_is_connected(deps: Dependencies) -> None:
    for group in deps.groups:
        nodes = [n for n, held in deps.graph.nodes(data="groups") if group.id in held]
        assert nx.is_connected(deps.graph.subgraph(nodes))
