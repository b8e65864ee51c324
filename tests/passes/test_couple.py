"""Groups, locks and reasons of small networks, known by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import graphprune
from tests.blocks import BLOCKS


def groups(name: str) -> dict[str, int]:
    build, example = BLOCKS[name]
    return {group.name: group.size for group in graphprune.analyze(build(), example()).groups}


def test_a_skip_connection_couples_both_ends() -> None:
    deps = graphprune.analyze(*_example("residual"))
    (stem,) = (g for g in deps.groups if g.name == "stem.0.weight[0]")
    members = {str(member) for member in stem.members}
    assert {"conv2.weight[0]", "bn2.running_var[0]", "down.weight[1]", "conv1.weight[1]"} <= members
    assert "conv1.weight[0]" not in members


def test_segments_of_a_concatenation_stay_separate() -> None:
    assert groups("dense") == {"a.weight[0]": 8, "b.weight[0]": 12}


def test_equal_lengths_are_no_evidence() -> None:
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    assert [group.size for group in graphprune.analyze(net).groups] == [16, 16]


def test_two_towers_that_meet_share_one_group() -> None:
    deps = graphprune.analyze(*_example("two towers"))
    (shared,) = (g for g in deps.groups if g.size == 32)
    names = {str(member) for member in shared.members}
    assert {"image_proj.weight[0]", "text_proj.weight[0]"} <= names


def test_tied_weights_are_one_tensor_with_two_names() -> None:
    deps = graphprune.analyze(*_example("tied"))
    (tied,) = (value for value in deps.source.weights.values() if value.aliases)
    assert {tied.name, *tied.aliases} == {"embed.weight", "head.weight"}


def test_rotary_halves_are_coupled_with_the_frequencies() -> None:
    deps = graphprune.analyze(*_example("llama"))
    (half,) = (g for g in deps.groups if "inv_freq[0]" in map(str, g.members))
    assert half.size == 4
    assert {"q_proj.weight[0]", "k_proj.weight[0]"} <= {str(m) for m in half.members}


def test_locks_carry_their_reasons() -> None:
    deps = graphprune.analyze(*_example("pixel shuffle"))
    reasons = " ".join(lock.reason for lock in deps.locks)
    assert "length fixed by aten.pixel_shuffle" in reasons
    assert "model input" in reasons
    assert "consumed by a window" in reasons


def test_weights_of_an_auxiliary_head_take_part() -> None:
    deps = graphprune.analyze(*_example("auxiliary head"))
    assert "aux.weight[1]" in map(str, deps.groups[0].members)


def test_order_is_the_same_from_run_to_run() -> None:
    for name in ("llama", "dense"):
        torch.manual_seed(0)
        assert groups(name) == groups(name)


def _example(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    build, example = BLOCKS[name]
    return build(), example()


class Positions(nn.Module):
    """A table of positions, or of pairs of them, cut to the length of the input."""

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)
        self.table = nn.Parameter(torch.randn(40, 40) if pairs else torch.randn(40, 32))

    def forward(self, x: Tensor) -> Tensor:
        length, y = x.shape[1], self.a(x)
        if self.table.shape[0] == self.table.shape[1]:
            return self.b((self.table[:length, :length] @ y).relu())
        return self.b((y + self.table[:length]).relu())


@pytest.mark.parametrize("pairs", [False, True])
def test_rows_that_the_example_was_too_short_for_stay(pairs: bool) -> None:
    """They went for nothing, in no order, and longer inputs read what had moved up."""
    torch.manual_seed(0)
    net, longer = Positions(pairs).double(), torch.randn(2, 17, 6).double()
    example = torch.randn(2, 8, 6).double()
    plan = graphprune.plan(net, 0.1, example_inputs=example, compensate=False)
    masked = copy.deepcopy(net)
    for name, kept in plan.kept.items():
        for dim, indices in enumerate(kept):
            if indices is not None:
                gone = sorted(
                    set(range(net.get_parameter(name).shape[dim])) - set(indices.tolist())
                )
                masked.get_parameter(name).data.index_fill_(dim, torch.tensor(gone), 0)
    small = plan.apply()
    assert small.table.shape[0] == 40
    torch.testing.assert_close(small(longer), masked(longer))
