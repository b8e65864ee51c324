"""Why two layers are coupled, as a path through the operations between them."""

from __future__ import annotations

import networkx as nx
import pytest

import graphprune
from graphprune import AxisError, Dependencies
from tests.blocks import BLOCKS


@pytest.fixture(scope="module")
def deps() -> Dependencies:
    build, example = BLOCKS["residual"]
    return graphprune.analyze(build(), example())


def test_the_chain_names_the_operations(deps: Dependencies) -> None:
    lines = deps.why("stem.0", "conv2")
    assert lines[0] == "stem.0.weight[0]"
    assert lines[-1].startswith("conv2.")
    assert any("aten.add" in line for line in lines)


def test_nothing_couples_the_two_sides_of_a_convolution(deps: Dependencies) -> None:
    assert deps.why("conv1.weight[0]", "conv1.weight[1]") == []


def test_one_dimension_can_be_named(deps: Dependencies) -> None:
    assert deps.why("conv1.weight[0]", "conv2.weight[1]")[-1] == "conv2.weight[1]"


def test_an_unknown_name_is_an_error(deps: Dependencies) -> None:
    with pytest.raises(AxisError, match="'conv9'"):
        deps.why("conv9", "conv1")


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
