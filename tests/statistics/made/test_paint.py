"""Pictures of random shapes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprune
from graphprune.statistics.made.paint import paintable, painted
from graphprune.statistics.made.sample import sample


def test_the_same_seed_paints_the_same_pictures() -> None:
    first, again, other = (painted(3, (3, 20, 24), seed) for seed in (1, 1, 2))
    assert first.shape == (3, 3, 20, 24) and first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_channels_are_normalised_and_go_together() -> None:
    pictures = painted(16, (3, 32, 32), 0)
    torch.testing.assert_close(pictures.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(pictures.std((0, 2, 3)), torch.ones(3), atol=1e-2, rtol=0)
    correlations = torch.corrcoef(pictures.movedim(1, 0).flatten(1))
    assert (correlations > 0.5).all()


def test_neighbours_are_alike_and_look_the_same_at_other_scales() -> None:
    pictures = painted(16, (1, 64, 64), 0)
    steps = [float(pictures.diff(n=1, dim=3)[..., ::k].square().mean()) for k in (1, 2)]
    assert steps[0] < 1.0  # of noise 2
    halved = nn.functional.avg_pool2d(pictures, 2)
    assert halved.var() > 0.6  # of noise 1 / 4
    assert steps[1] == pytest.approx(steps[0], rel=0.2)


def test_a_film_is_a_picture_that_moves() -> None:
    film = painted(2, (3, 4, 16, 16), 0)
    assert film.shape == (2, 3, 4, 16, 16)
    assert torch.equal(film[:, :, 1], film[:, :, 0].roll((1, 1), (-2, -1)))


@pytest.mark.parametrize(
    ("shape", "seen"), [((3, 32, 32), True), ((3, 4, 4), False), ((5, 64), False), ((7,), False)]
)
def test_what_can_be_seen(shape: tuple[int, ...], seen: bool) -> None:
    assert paintable(shape) == seen


def test_networks_that_see_get_pictures_where_synthesis_takes_long() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    like = torch.randn(2, 3, 16, 16)
    found = sample(graphprune.analyze(model, like), [like], 8, "fast", 0)
    assert found.origin == "8 pictures of random shapes"
    assert torch.equal(torch.cat([chunk[0] for chunk in found.chunks]), painted(8, (3, 16, 16), 0))
