"""Augment: other inputs, made of those that there are and of nothing else."""

from __future__ import annotations

import pytest
import torch

from graphprune.statistics.made.augment import augmented

_AS_THEY_ARE, _BLENDED, _PASTED = range(3)


def test_the_same_inputs_for_the_same_seed_and_others_for_another() -> None:
    chunk = (torch.randn(16, 3, 16, 16),)
    for change in (_AS_THEY_ARE, _BLENDED, _PASTED):
        first, again, other = (augmented(chunk, [True], change, seed)[0] for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert first.shape == chunk[0].shape


def test_what_holds_no_samples_stays() -> None:
    x, table = torch.randn(8, 3, 16), torch.ones(5)
    for change in (_AS_THEY_ARE, _BLENDED, _PASTED):
        assert augmented((x, table), [True, False], change, 0)[1] is table


@pytest.mark.parametrize("change", [_AS_THEY_ARE, _BLENDED, _PASTED])
def test_whole_numbers_stay_with_all_that_belongs_to_them(change: int) -> None:
    chunk = (torch.eye(8), torch.arange(8))
    assert augmented(chunk, [True, True], change, 0) is chunk


def test_a_blend_holds_at_most_half_of_another_sample() -> None:
    x = torch.eye(8)
    (mixed,) = augmented((x,), [True], _BLENDED, 0)
    nearest = (mixed[:, None] - x).norm(dim=2).argmin(1)
    assert (nearest == torch.arange(8)).all()
    assert torch.allclose(mixed.sum(1), torch.ones(8))
    assert not torch.equal(mixed, x)


def test_a_pasted_box_is_of_one_other_sample() -> None:
    x = torch.arange(32.0).reshape(32, 1, 1, 1).expand(-1, 3, 20, 20)
    (pasted,) = augmented((x,), [True], _PASTED, 0)
    changed = 0
    for own, sample in enumerate(pasted):
        foreign = sample != own
        assert len(sample[foreign].unique()) <= 1
        rows, columns = foreign[0].any(1), foreign[0].any(0)
        inside = rows[:, None] & columns
        assert (foreign == inside).all()  # a box, the same in all channels
        changed += bool(foreign.any())
    assert changed > 16


def test_a_box_covers_the_same_share_of_all_inputs() -> None:
    x = torch.arange(32.0).reshape(32, 1, 1)
    first, second = augmented((x.expand(-1, 2, 40), x.expand(-1, 5, 80)), [True, True], _PASTED, 3)
    for own, (a, b) in enumerate(zip(first, second, strict=True)):
        assert abs(float((a != own).float().mean()) - float((b != own).float().mean())) < 0.05


def test_samples_roll_together_and_only_a_little() -> None:
    x = torch.arange(64.0).expand(4, 2, 64)
    moved = {int(augmented((x,), [True], _AS_THEY_ARE, seed)[0][0, 0, 0]) for seed in range(40)}
    assert len(moved) > 5
    assert all(min(by, 64 - by) <= 8 for by in moved)


def test_features_do_not_roll() -> None:
    x = torch.randn(8, 64)
    assert torch.equal(augmented((x,), [True], _AS_THEY_ARE, 0)[0], x)
    assert torch.equal(augmented((x,), [True], _PASTED, 0)[0], x)
