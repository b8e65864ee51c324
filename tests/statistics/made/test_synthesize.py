"""Inputs made from what the weights remember."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphprune
from graphprune.core.allowance import Allowance
from graphprune.statistics.constants import LONGEST_SECONDS, MATCHED
from graphprune.statistics.estimate import elements_of, seconds, synthesis_seconds
from graphprune.statistics.made import sample as module
from graphprune.statistics.made.descend import Descent, half_smooth
from graphprune.statistics.made.normalise import _Affine, normalised
from graphprune.statistics.made.sample import sample
from graphprune.statistics.made.synthesize import (
    invert_classes,
    match_norms,
    norms,
)


def _trained() -> nn.Module:
    """A network whose batch norms have seen inputs of their own kind."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 4),
    )
    for _ in range(40):
        model(F.avg_pool2d(torch.randn(32, 2, 12, 12), 3, 1) * 2 + 0.5)
    return model.eval()


def test_images_have_the_statistics_that_the_norms_remember() -> None:
    model = _trained()
    like = torch.randn(2, 2, 10, 10)
    deps = graphprune.analyze(model, like)
    (images,), left = match_norms(deps, [like], 64, Descent(200))
    assert left <= MATCHED
    before = {name: b.clone() for name, b in model.named_buffers()}
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 1.0
    model.train()(images)
    for name, found in model.named_buffers():
        if name.endswith("running_mean"):
            spread = before[name.replace("mean", "var")].sqrt()
            assert float(((found - before[name]) / spread).abs().max()) < 0.3


def test_a_watched_norm_gives_its_result_and_statistics_with_their_gradients() -> None:
    x = (3 + torch.randn(5, 4, 3, 2, dtype=torch.float64)).requires_grad_()
    scale, shift = torch.rand(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    out, mean, variance = _Affine.apply(x, scale, shift)
    torch.testing.assert_close(out, x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1))
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(variance, x.var((0, 2, 3), unbiased=False))
    assert torch.autograd.gradcheck(_Affine.apply, (x, scale, shift))


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 5), (6, 4, 3, 2)])
@pytest.mark.parametrize("affine", [True, False])
def test_a_watched_norm_is_the_norm(shape: tuple[int, ...], affine: bool) -> None:
    x, mean, variance = torch.randn(shape), torch.randn(4), torch.rand(4) + 0.1
    gain, offset = (torch.randn(4), torch.randn(4)) if affine else (None, None)
    out, off = normalised([x, gain, offset, mean, variance], 1e-3)
    torch.testing.assert_close(out, F.batch_norm(x, mean, variance, gain, offset, eps=1e-3))
    dims = [0, *range(2, x.dim())]
    spread = (variance + 1e-3).sqrt()
    found = (x.var(dims, unbiased=False) + 1e-3).sqrt()
    wanted = ((x.mean(dims) - mean).square() + (found - spread).square()) / spread.square()
    torch.testing.assert_close(off, wanted.mean())


def test_a_norm_after_half_precision_keeps_its_type() -> None:
    x = torch.randn(6, 4, 3, dtype=torch.bfloat16)
    out, off = normalised([x, None, None, torch.zeros(4), torch.ones(4)], 1e-5)
    assert out.dtype == torch.bfloat16
    assert off.dtype == torch.float32


def test_code_that_writes_to_its_input_is_given_a_copy() -> None:
    model = _trained()
    like = torch.randn(2, 2, 10, 10)
    writing = nn.Sequential(nn.ReLU(inplace=True), *model).eval()
    (images,), _ = match_norms(graphprune.analyze(writing, like), [like], 64, Descent(20))
    assert (images < 0).any(), "what came out of the descent, not what the code left of it"


def test_noise_is_not_enough_for_that() -> None:
    like = torch.randn(2, 2, 10, 10)
    _, left = match_norms(graphprune.analyze(_trained(), like), [like], 64, Descent(1))
    assert left > 10 * MATCHED


def test_a_classifier_is_inverted() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 5)).eval()
    like = torch.randn(2, 10)
    deps = graphprune.analyze(model, like)
    (inputs,), left = invert_classes(deps, [like], 50, Descent(60))
    _, start = invert_classes(deps, [like], 50, Descent(1))
    assert left < 0.5 * start
    assert len(model(inputs).argmax(1).unique()) == 5


def test_fresh_norms_remember_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 2, 1))
    assert norms(graphprune.analyze(model, torch.randn(2, 2, 10, 10))) == []


def test_where_inputs_come_from() -> None:
    image, tokens = torch.randn(2, 2, 10, 10), torch.tensor([[1, 2, 7], [3, 4, 5]])
    with_norms = graphprune.analyze(_trained(), image)
    assert "batch-norm" in sample(with_norms, [image], 8, "auto", 0).origin
    assert sample(with_norms, [image], 8, "fast", 0).origin == "8 pictures of random shapes"
    briefly = sample(with_norms, [image], 8, "fast", 0, most=4).origin
    assert briefly == "4 pictures of random shapes", "passes have no time for more"
    model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 6), nn.Linear(6, 3))
    found = sample(graphprune.analyze(model, tokens), [tokens], 8, "auto", 0)
    assert found.origin == "8 random token inputs"
    ids = torch.cat([chunk[0] for chunk in found.chunks])
    assert ids.shape == (8, 3)
    assert set(ids.flatten().tolist()) <= set(range(10))


def test_large_networks_are_not_synthesised_unasked() -> None:
    import torchvision

    deps = graphprune.analyze(torchvision.models.resnet18(), torch.randn(2, 3, 224, 224))
    assert seconds(deps, 256) > LONGEST_SECONDS
    assert seconds(deps, 256, 50) == pytest.approx(seconds(deps, 256, 100) / 2)


def test_half_of_the_noise_is_smooth() -> None:
    x = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    made = half_smooth(x)
    assert torch.equal(made[:32], x[:32])
    assert made[32:].var() == pytest.approx(1.0, abs=0.1)
    assert (made[32:].diff(dim=3).square().mean() / x.diff(dim=3).square().mean()) < 0.5


def test_reading_few_channels_takes_long() -> None:
    ratios = []
    for channels in (1, 4, 16, 32):
        model, x = nn.Conv2d(channels, 64, 7), torch.randn(2, channels, 32, 32)
        deps = graphprune.analyze(model, x)
        ratios.append(synthesis_seconds(deps, 256) / seconds(deps, 256))
    assert ratios[0] > 2 * ratios[1] > 2 and ratios[2:] == [1.0, 1.0]


def test_as_many_are_synthesised_as_time_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    like = torch.randn(2, 2, 10, 10)
    deps = graphprune.analyze(_trained(), like)

    def source(longest: float) -> str:
        monkeypatch.setattr(module, "LONGEST_SECONDS", longest)
        return sample(deps, [like], 16, "auto", 0).origin

    for number in (16, 8, 4):
        assert source(synthesis_seconds(deps, number)).startswith(f"{number} inputs synthesised")
    assert source(synthesis_seconds(deps, 3)).startswith("16 inputs synthesised"), "in few steps"
    assert source(synthesis_seconds(deps, 1, 20)) == "16 pictures of random shapes"


def test_a_descent_on_inputs_ends_when_its_time_is_over() -> None:
    like = torch.randn(2, 2, 10, 10)
    deps = graphprune.analyze(_trained(), like)
    steps: list[float] = []
    sample(deps, [like], 16, "auto", 0, steps.append, allowed=Allowance(0.0))
    assert not steps


def test_pictures_take_a_few_steps_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    like = torch.randn(2, 2, 10, 10)
    deps = graphprune.analyze(_trained(), like)
    made, near = match_norms(deps, [like], 32, Descent(20, from_pictures=True))
    _, far = match_norms(deps, [like], 32, Descent(1, from_pictures=True))
    assert near < 0.5 * far
    assert len(made[0]) == 32
    monkeypatch.setattr(module, "LONGEST_SECONDS", synthesis_seconds(deps, 16, 20))
    monkeypatch.setattr(module, "DESCENT_BYTES", 4 * elements_of(deps) * 6)
    shares: list[float] = []
    found = sample(deps, [like], 16, "auto", 0, shares.append)
    assert found.number == 16
    assert shares == sorted(shares), "parts follow each other"
    assert shares[-1] > 2 / 3
