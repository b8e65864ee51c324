"""Weights that are tied, used twice or computed from others, and towers that meet."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Tied(nn.Module):
    """An embedding that is also the output projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.up = nn.Linear(32, 64)
        self.down = nn.Linear(64, 32)
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.down(F.relu(self.up(self.embed(ids)))))


class Shared(nn.Module):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(F.relu(self.b(F.relu(self.b(F.relu(self.a(x)))))))


class TwoTowers(nn.Module):
    """Two inputs, two encoders that meet in one embedding, a dict as output."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.image_proj = nn.Linear(12, 32)
        self.text = nn.Embedding(40, 20)
        self.text_proj = nn.Linear(20, 32)

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Any]:
        a = self.image_proj(self.image(image).flatten(1))
        b = self.text_proj(self.text(text).mean(1))
        return {"similarity": a @ b.t(), "pair": ((a * b).sum(1),)}


def weight_norm() -> nn.Module:
    norm = torch.nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(6, 24)), nn.ReLU(), norm(nn.Linear(24, 4)))


def spectral_norm() -> nn.Module:
    norm = torch.nn.utils.parametrizations.spectral_norm
    return nn.Sequential(norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), norm(nn.Conv2d(16, 4, 3)))
