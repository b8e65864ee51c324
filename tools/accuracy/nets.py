"""Small networks, one for each way in which channels hold together."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALPHABET, LONGEST, LANGUAGES = 64, 16, 5
"""Of words: letters that are told apart (0 fills, 1 begins), tokens of a word, classes."""


def _conv(i: int, o: int, k: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(i, o, k, stride, k // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(o)]


class Images(nn.Module):
    """Convolutions, an average over space, and a linear head."""

    def __init__(self, body: nn.Module, width: int) -> None:
        super().__init__()
        self.body = body
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images `n x 1 x s x s` to logits `n x 10`."""
        return cast(Tensor, self.head(self.body(x).mean((2, 3))))


class Residual(nn.Module):
    """Two convolutions around a skip connection, a squeeze-excite gate if asked for."""

    def __init__(self, i: int, o: int, stride: int = 1, gate: bool = False) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_conv(i, o, stride=stride), nn.ReLU(), *_conv(o, o))
        same = stride == 1 and i == o
        self.skip = nn.Identity() if same else nn.Sequential(*_conv(i, o, 1, stride))
        self.gate: nn.Module | None = None
        if gate:
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(o, o // 4, 1),
                nn.ReLU(),
                nn.Conv2d(o // 4, o, 1),
                nn.Sigmoid(),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out."""
        y = self.branch(x)
        if self.gate is not None:
            y = y * self.gate(y)
        return F.relu(y + self.skip(x))


class Inverted(nn.Module):
    """MobileNetV2's block: expand, depthwise, project."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        h = 4 * i
        self.branch = nn.Sequential(
            *_conv(i, h, 1), nn.ReLU6(), *_conv(h, h, 3, stride, h), nn.ReLU6(), *_conv(h, o, 1)
        )
        self.residual = stride == 1 and i == o

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out."""
        y = self.branch(x)
        return cast(Tensor, x + y if self.residual else y)


class Grown(nn.Module):
    """DenseNet's layer: its result is concatenated to its input."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.BatchNorm2d(i), nn.ReLU(), *_conv(i, 4 * growth, 1), nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out."""
        return torch.cat([x, self.branch(x)], 1)


class Shuffled(nn.Module):
    """ShuffleNetV2's unit: half of the channels pass, then all are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        h = width // 2
        self.branch = nn.Sequential(
            *_conv(h, h, 1), nn.ReLU(), *_conv(h, h, groups=h), *_conv(h, h, 1), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out."""
        a, b = x.chunk(2, 1)
        x = torch.cat([a, self.branch(b)], 1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Attention(nn.Module):
    """Self-attention with a fused qkv."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in, tokens out."""
        n, t, c = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1)
        return cast(Tensor, self.proj(y))


def _mlp(width: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Block(nn.Module):
    """A transformer block, or with `tokens` a mixer block."""

    def __init__(self, width: int, tokens: int = 0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = _mlp(tokens, 64) if tokens else Attention(width, 4)
        self.mlp = _mlp(width, 4 * width)
        self.turned = tokens > 0

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in, tokens out."""
        y = self.norm1(x)
        y = self.across(y.transpose(1, 2)).transpose(1, 2) if self.turned else self.across(y)
        x = x + y
        return cast(Tensor, x + self.mlp(self.norm2(x)))


class Patches(nn.Module):
    """Patches of 2 x 2 pixels as tokens: ViT (with a class token) or mixer."""

    def __init__(self, size: int, mixer: bool, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        patches = (size // 2) ** 2
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.token = None if mixer else nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, patches + (not mixer), width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, patches if mixer else 0) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images `n x 1 x s x s` to logits `n x 10`."""
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.position))
        return cast(Tensor, self.head(x.mean(1) if self.token is None else x[:, 0]))


class Rows(nn.Module):
    """An LSTM over the rows of an image."""

    def __init__(self, size: int, hidden: int = 96) -> None:
        super().__init__()
        self.embed = nn.Linear(size, 64)
        self.lstm = nn.LSTM(64, hidden, batch_first=True)
        self.wide = nn.Linear(hidden, 128)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images `n x 1 x s x s` to logits `n x 10`."""
        y = self.lstm(F.relu(self.embed(x.squeeze(1))))[0].mean(1)
        return cast(Tensor, self.head(F.relu(self.wide(y))))


class Encoder(nn.Module):
    """BERT's layer: separate projections, normalised after each sum."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.mlp = _mlp(width, 4 * width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens in, tokens out."""
        n, t, c = x.shape
        shape = (n, t, self.num_heads, c // self.num_heads)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1)
        x = self.norm1(x + self.output(y))
        return cast(Tensor, self.norm2(x + self.mlp(x)))


class Letters(nn.Module):
    """A small BERT over the letters of a word; the first token's state is classified."""

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.letter = nn.Embedding(ALPHABET, width)
        self.position = nn.Parameter(torch.randn(1, LONGEST, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(*(Encoder(width, 4) for _ in range(depth)))
        self.pooler = nn.Linear(width, width)
        self.head = nn.Linear(width, LANGUAGES)

    def forward(self, x: Tensor) -> Tensor:
        """Letters `n x t` to logits `n x 5`."""
        x = self.layers(self.norm(self.letter(x) + self.position))
        return cast(Tensor, self.head(torch.tanh(self.pooler(x[:, 0]))))


def _vgg() -> nn.Module:
    layers: list[nn.Module] = []
    width = 1
    for i, o in enumerate((32, 32, 64, 64, 128, 128)):
        layers += [*_conv(width, o), nn.ReLU(), *([nn.MaxPool2d(2)] if i in (1, 3) else [])]
        width = o
    return Images(nn.Sequential(*layers), width)


def _resnet(gate: bool) -> nn.Module:
    widths = [(32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)]
    blocks = [Residual(i, o, stride, gate) for i, o, stride in widths]
    return Images(nn.Sequential(*_conv(1, 32), nn.ReLU(), *blocks), 128)


def _mobilenet() -> nn.Module:
    widths = [(24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 48, 2), (48, 48, 1)]
    blocks = [Inverted(i, o, stride) for i, o, stride in widths]
    return Images(nn.Sequential(*_conv(1, 24), nn.ReLU6(), *blocks), 48)


def _densenet() -> nn.Module:
    width, growth = 24, 12
    layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1, bias=False)]
    for stage in range(3):
        layers += [Grown(width + i * growth, growth) for i in range(4)]
        width += 4 * growth
        layers += [nn.BatchNorm2d(width), nn.ReLU()]
        if stage < 2:
            layers += [nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
    return Images(nn.Sequential(*layers), width)


def _shufflenet() -> nn.Module:
    layers = [*_conv(1, 48), nn.ReLU(), Shuffled(48), Shuffled(48), *_conv(48, 96, 3, 2), nn.ReLU()]
    layers += [Shuffled(96), Shuffled(96), *_conv(96, 128, 1), nn.ReLU()]
    return Images(nn.Sequential(*layers), 128)


IMAGES: dict[str, Callable[[int], nn.Module]] = {
    "VGG-BN": lambda _: _vgg(),
    "ResNet-BN": lambda _: _resnet(False),
    "SE-ResNet": lambda _: _resnet(True),
    "MobileNet": lambda _: _mobilenet(),
    "DenseNet": lambda _: _densenet(),
    "ShuffleNet": lambda _: _shufflenet(),
    "ViT": lambda size: Patches(size, False),
    "Mixer": lambda size: Patches(size, True),
    "LSTM": Rows,
}
"""Classifiers of square images with ten classes, for a size of image."""

WORDS: dict[str, Callable[[], nn.Module]] = {"BERT": Letters}
"""Classifiers of words."""
