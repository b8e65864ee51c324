"""Blocks over tokens without attention: recurrence, mixing, masks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Recurrent(nn.Module):
    """A stacked bidirectional LSTM over an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 32, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 5)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(ids))[0].mean(1))


class Mixer(nn.Module):
    """An MLP over tokens and one over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 4, stride=4)
        self.norm = nn.LayerNorm(24)
        self.tokens = nn.Sequential(nn.Linear(16, 40), nn.GELU(), nn.Linear(40, 16))
        self.channels = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.norm(x))).mean(1))


class Masked(nn.Module):
    """A mask written in place, into slices of a fresh tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(12, 32)
        self.b = nn.Linear(32, 12)

    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_zeros(x.shape[1], x.shape[1])
        mask[0:2, :] = 1.0
        mask[2:, 1:3] = 2.0
        return self.b(mask @ F.relu(self.a(x)))
