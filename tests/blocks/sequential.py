"""Blocks that are layers in a row."""

from __future__ import annotations

import torch
from torch import nn

from tests.blocks.inputs import Block, images

SEQUENTIAL: dict[str, Block] = {
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 4, 1)
        ),
        images,
    ),
    "depth multiplier": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1)
        ),
        images,
    ),
    "group norm": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 4, 1)
        ),
        images,
    ),
    "pixel shuffle": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.PReLU(16),
            nn.Conv2d(16, 24, 3),
            nn.PixelShuffle(2),
            nn.Conv2d(6, 3, 3),
        ),
        images,
    ),
    "flatten": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4)
        ),
        images,
    ),
    "generator": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 16, 4, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
            nn.Tanh(),
        ),
        images,
    ),
    "wavenet": (
        lambda: nn.Sequential(nn.Conv1d(2, 16, 5, dilation=2), nn.GLU(1), nn.Conv1d(8, 4, 1)),
        lambda: (torch.randn(2, 2, 40),),
    ),
}
