"""Small networks and data for tests of training."""

from __future__ import annotations

import torch
from torch import nn

INPUTS = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = (INPUTS.mean((1, 2, 3)) * 40).round().clamp(-2, 1).long() + 2


def cnn(seed: int = 0) -> nn.Sequential:
    """Two convolutions with batch norms and a classifier."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, like: torch.Tensor = INPUTS
) -> list[float]:
    """Some steps on all of the data; the loss of each."""
    model.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(like), LABELS)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
