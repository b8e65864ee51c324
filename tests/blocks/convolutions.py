"""Convolutional blocks: skips, concatenations, shuffles, gates, groups."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions around a skip connection, a strided one with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.conv1 = nn.Conv2d(16, 24, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(24)
        self.conv2 = nn.Conv2d(24, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.down = nn.Conv2d(16, 32, 1, stride=2)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return self.head(self.down(x).mean((2, 3)))


class Dense(nn.Module):
    """Concatenation of all earlier features, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(28)
        self.c = nn.Conv2d(28, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        return self.c(F.relu(self.norm(torch.cat([x, self.b(x), x], 1))))


class Shuffle(nn.Module):
    """A channel shuffle by view and transpose, then a split of its result."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        half = width // 2
        self.stem = nn.Conv2d(3, width, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(half, half, 3, padding=1, groups=half), nn.Conv2d(half, half, 1)
            )
            for _ in range(2)
        )
        self.head = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            a, b = x.chunk(2, dim=1)
            x = torch.cat([a, branch(b)], 1)
            n, c, h, w = x.shape
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(x)


class SqueezeExcite(nn.Module):
    """Channels multiplied by a gate computed from themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, padding=1)
        self.down = nn.Conv2d(32, 8, 1)
        self.up = nn.Conv2d(8, 32, 1)
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head(x * gate)


class PaddedShortcut(nn.Module):
    """A shortcut without weights, its missing channels zeros (He et al. 2016, option A)."""

    def __init__(self, cut: bool = False) -> None:
        super().__init__()
        self.cut = cut
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.conv1 = nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(24, 32, 3, padding=1)
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.conv2(F.relu(self.conv1(x)))
        small = F.avg_pool2d(x, 1, 2)
        small = small.data if self.cut else small  # how early code cut the gradient
        missing = self.conv2.out_channels - small.shape[1]
        return self.head(F.relu(y + F.pad(small, (0, 0, 0, 0, 0, missing))))


class Fourier(nn.Module):
    """Weights that multiply frequencies, complex ones (Li et al. 2021)."""

    def __init__(self, width: int = 16, inner: int = 24, modes: int = 5) -> None:
        super().__init__()
        self.lift = nn.Conv2d(3, width, 1)
        self.weight = nn.Parameter(
            0.1 * torch.randn(width, inner, modes, modes, dtype=torch.cfloat)
        )
        self.skip = nn.Conv2d(width, inner, 1)
        self.head = nn.Conv2d(inner, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        modes = self.weight.shape[-1]
        low = torch.fft.rfft2(x)[..., :modes, :modes]
        mixed = torch.einsum("bixy,ioxy->boxy", low, self.weight)
        y = torch.fft.irfft2(mixed, s=x.shape[-2:])
        return self.head(F.gelu(y + self.skip(x)))


class Standardised(nn.Module):
    """A convolution whose weights are normalised by a batch norm in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3)
        self.b = nn.Conv2d(16, 16, 3)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        flat = self.b.weight.reshape(1, self.b.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0)
        return self.head(F.relu(F.conv2d(x, weight.reshape_as(self.b.weight), self.b.bias)))


class Auxiliary(nn.Module):
    """A second head that only training mode reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 4, 1)
        self.aux = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Any:
        x = F.relu(self.body(x))
        return (self.head(x), self.aux(x)) if self.training else self.head(x)
