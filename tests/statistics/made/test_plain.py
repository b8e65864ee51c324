"""Inputs that are made without a look at the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import graphprune
from graphprune.statistics.made.plain import plain


class Towers(nn.Module):
    """Texts and images, of which there may be different numbers, are compared with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(20, 16), nn.Linear(16, 8)
        self.image = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 8))
        self.register_buffer("scale", torch.ones(3))

    def forward(self, tokens: Tensor, images: Tensor, weights: Tensor) -> Tensor:
        texts = self.head(self.words(tokens).mean(1))
        found: Tensor = texts @ (self.image(images) * weights.mean()).T
        return found


def test_samples_of_another_kind_are_made_too() -> None:
    """The images of CLIP were the two of the example throughout."""
    example = torch.randint(20, (4, 5)), torch.randn(2, 12), torch.ones(3)
    deps = graphprune.analyze(Towers().eval(), example)
    made = plain(deps, example, 64, 0)
    tokens, images, weights = (torch.cat(parts) for parts in zip(*made.chunks, strict=True))
    assert (len(tokens), len(images), made.size) == (64, 32, 4)
    assert len(images.unique(dim=0)) == 32
    assert set(weights.tolist()) == {1.0}  # no results belong to it


def test_what_has_no_samples_beside_is_made_at_once() -> None:
    example = (torch.randn(2, 12),)
    deps = graphprune.analyze(Towers().image.eval(), example)
    made = plain(deps, example, 64, 0)
    assert sum(len(x) for (x,) in made.chunks) == 64


class Boxes(nn.Module):
    """Words on a page, with the corners of their boxes: the later one lies behind the first."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.widths = nn.Embedding(20, 16), nn.Embedding(30, 16)
        self.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, tokens: Tensor, boxes: Tensor) -> Tensor:
        found: Tensor = self.head(self.words(tokens) + self.widths(boxes[..., 1] - boxes[..., 0]))
        return found


def test_integers_that_the_model_does_not_take_are_those_of_the_example() -> None:
    """Random corners gave widths below zero, and compensation was left out."""
    example = torch.randint(20, (3, 5)), torch.randint(30, (3, 5, 2)).sort(-1)[0]
    made = plain(graphprune.analyze(Boxes().eval(), example), example, 48, 0)
    boxes = torch.cat([boxes for _, boxes in made.chunks])
    assert len(boxes) == 48 and bool((boxes[..., 1] >= boxes[..., 0]).all())
    tokens = torch.cat([tokens for tokens, _ in made.chunks])
    assert len(tokens.unique(dim=0)) > 40


class Lengths(nn.Module):
    """Texts of several lengths, none of them empty."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.lstm = nn.Embedding(20, 16), nn.LSTM(16, 24, batch_first=True)
        self.head = nn.Linear(24, 4)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.words(tokens), lengths, batch_first=True, enforce_sorted=False
        )
        found: Tensor = self.head(self.lstm(packed)[1][0][-1])
        return found


def test_the_smallest_number_drawn_is_tried_too() -> None:
    """Two lengths at random were accepted; a later zero cost all compensation."""
    example = torch.randint(20, (2, 9)), torch.tensor([9, 8])
    deps = graphprune.analyze(Lengths().eval(), example)
    lengths = torch.cat([chunk[1] for chunk in plain(deps, example, 64, 0).chunks])
    assert set(lengths.tolist()) == {8, 9}
