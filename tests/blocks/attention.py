"""Attention blocks: fused and separate projections, rotary positions, grouped queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
