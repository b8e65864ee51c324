"""Small networks, each with one way in which dimensions hold together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Inputs = tuple[Tensor, ...]


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


class Attention(nn.Module):
    """Fused qkv, explicit heads attribute, the softmax scale left to PyTorch."""

    def __init__(self, width: int = 64, heads: int = 8) -> None:
        super().__init__()
        self.num_heads = heads
        self.embed = nn.Linear(10, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, n, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        return self.head(x + self.proj(y)).mean(1)


class RMSNorm(nn.Module):
    """Root mean square normalisation, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Llama(nn.Module):
    """A decoder block: RMSNorm, grouped queries, rotary positions, SwiGLU."""

    def __init__(self, width: int = 32, heads: int = 4, kv: int = 2, ff: int = 64) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = heads, kv, width // heads
        self.embed = nn.Embedding(100, width)
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.q_proj = nn.Linear(width, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv * self.head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, width, bias=False)
        self.gate_proj = nn.Linear(width, ff, bias=False)
        self.up_proj = nn.Linear(width, ff, bias=False)
        self.down_proj = nn.Linear(ff, width, bias=False)
        self.lm_head = nn.Linear(width, 100, bias=False)
        steps = torch.arange(0, self.head_dim, 2).float() / self.head_dim
        self.register_buffer("inv_freq", 1.0 / (10000**steps))

    def rotate(self, x: Tensor) -> Tensor:
        freq = torch.outer(torch.arange(x.shape[2]).float(), self.inv_freq)
        angle = torch.cat((freq, freq), -1)
        a, b = x.chunk(2, -1)
        return x * angle.cos() + torch.cat((-b, a), -1) * angle.sin()

    def heads(self, x: Tensor, number: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], number, self.head_dim).transpose(1, 2)

    def repeated(self, x: Tensor) -> Tensor:
        b, kv, n, d = x.shape
        rep = self.num_heads // self.num_kv_heads
        return x[:, :, None].expand(b, kv, rep, n, d).reshape(b, kv * rep, n, d)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        y = self.norm1(x)
        q = self.rotate(self.heads(self.q_proj(y), self.num_heads))
        k = self.repeated(self.rotate(self.heads(self.k_proj(y), self.num_kv_heads)))
        v = self.repeated(self.heads(self.v_proj(y), self.num_kv_heads))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o_proj(a.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return self.lm_head(x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y)))


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


class WholeHeads(nn.Module):
    """Code that takes the inner width of attention for the width of its input."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = (
            f(x).reshape(b, n, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        a = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5).softmax(-1)
        return self.out((a @ v).transpose(1, 2).reshape(b, n, c))


class Encoder(nn.Module):
    """`WholeHeads` whose input width is an output of the model, hence locked."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = WholeHeads()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x)


def _conv_net(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


def _weight_norm() -> nn.Module:
    norm = torch.nn.utils.parametrizations.weight_norm
    return nn.Sequential(norm(nn.Linear(6, 24)), nn.ReLU(), norm(nn.Linear(24, 4)))


def _spectral_norm() -> nn.Module:
    norm = torch.nn.utils.parametrizations.spectral_norm
    return nn.Sequential(norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), norm(nn.Conv2d(16, 4, 3)))


def images(size: int = 16) -> Inputs:
    """A batch of two images."""
    return (torch.randn(2, 3, size, size),)


def tokens() -> Inputs:
    """A batch of two token sequences."""
    return (torch.randint(0, 40, (2, 7)),)


BLOCKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Inputs]]] = {
    "residual": (Residual, images),
    "dense": (Dense, images),
    "shuffle": (Shuffle, images),
    "odd shuffle": (lambda: Shuffle(36), images),
    "squeeze-excite": (SqueezeExcite, images),
    "attention": (Attention, lambda: (torch.randn(2, 6, 10),)),
    "llama": (Llama, tokens),
    "tied": (Tied, tokens),
    "shared": (Shared, lambda: (torch.randn(2, 16),)),
    "recurrent": (Recurrent, tokens),
    "mixer": (Mixer, images),
    "standardised weights": (Standardised, images),
    "mask in place": (Masked, lambda: (torch.randn(2, 5, 12),)),
    "auxiliary head": (Auxiliary, images),
    "two towers": (TwoTowers, lambda: (*images(), *tokens())),
    "fixed width": (Encoder, lambda: (torch.randn(2, 5, 32),)),
    "weight norm": (_weight_norm, lambda: (torch.randn(2, 6),)),
    "spectral norm": (_spectral_norm, images),
    "grouped": (
        lambda: _conv_net(
            nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=4), nn.Conv2d(32, 4, 1)
        ),
        images,
    ),
    "depth multiplier": (
        lambda: _conv_net(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1)),
        images,
    ),
    "group norm": (
        lambda: _conv_net(nn.Conv2d(3, 16, 3), nn.GroupNorm(4, 16), nn.ReLU(), nn.Conv2d(16, 4, 1)),
        images,
    ),
    "pixel shuffle": (
        lambda: _conv_net(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.PReLU(16),
            nn.Conv2d(16, 24, 3),
            nn.PixelShuffle(2),
            nn.Conv2d(6, 3, 3),
        ),
        images,
    ),
    "flatten": (
        lambda: _conv_net(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4)),
        images,
    ),
    "generator": (
        lambda: _conv_net(
            nn.ConvTranspose2d(3, 16, 4, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
            nn.Tanh(),
        ),
        images,
    ),
    "wavenet": (
        lambda: _conv_net(nn.Conv1d(2, 16, 5, dilation=2), nn.GLU(1), nn.Conv1d(8, 4, 1)),
        lambda: (torch.randn(2, 2, 40),),
    ),
    "transformer": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, enable_nested_tensor=False
        ),
        lambda: (torch.randn(2, 5, 32),),
    ),
}
