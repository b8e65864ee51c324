"""Networks written in plain PyTorch: what users bring that no library of models holds."""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Recurrent(nn.Module):
    """A recurrent network and a classifier of its last state."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(16, 32, batch_first=True, **options)  # type: ignore[arg-type]
        ways = 2 if options.get("bidirectional") else 1
        self.head = nn.Linear(32 * ways, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0][:, -1])


class Cells(nn.Module):
    """An LSTM cell stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(16, 32), nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.new_zeros(x.shape[0], 32)
        c = torch.zeros_like(h)
        for step in range(4):
            h, c = self.cell(x[:, step], (h, c))
        return self.head(h)


class Attend(nn.Module):
    """`nn.MultiheadAttention` in one of its layouts, between two linear layers."""

    def __init__(self, cross: bool = False, **options: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 32), nn.Linear(32, 5)
        self.attention = nn.MultiheadAttention(32, 4, **options)
        self.memory = nn.Linear(16, options.get("kdim") or 32) if cross else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        other = y if self.memory is None else self.memory(x)
        return self.last(y + self.attention(y, other, other, need_weights=False)[0])


class Translate(nn.Module):
    """`nn.Transformer` between embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 32)
        self.body = nn.Transformer(32, 4, 1, 1, 64, batch_first=True)
        self.head = nn.Linear(32, 50)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.words(source), self.words(target)))


class WaveNet(nn.Module):
    """Dilated causal convolutions, gates, residual and skip sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 16, 1)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 2, dilation=2**i) for i in range(4))
        self.skips = nn.ModuleList(nn.Conv1d(16, 24, 1) for _ in range(4))
        self.residuals = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(4))
        self.head = nn.Conv1d(24, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, out = self.stem(x), torch.zeros(())
        for i, gate in enumerate(self.gates):
            a, b = gate(F.pad(x, (2**i, 0))).chunk(2, dim=1)
            y = torch.tanh(a) * torch.sigmoid(b)
            out = out + self.skips[i](y)
            x = x + self.residuals[i](y)
        return self.head(F.relu(out))


class Siamese(nn.Module):
    """One tower run on two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 24),
        )

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.cosine_similarity(self.tower(a), self.tower(b))


class TwoTowers(nn.Module):
    """An image and a text tower that meet in one embedding: its width is one group."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(3, 24, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 64, 40)
        )
        self.words = nn.EmbeddingBag(50, 32)
        self.text = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 40))

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        a = F.normalize(self.image(image), dim=-1)
        b = F.normalize(self.text(self.words(text)), dim=-1)
        return a @ b.T


@dataclass
class Answer:
    """What `ManyHeads` returns."""

    label: torch.Tensor
    box: torch.Tensor


class ManyHeads(nn.Module):
    """Two inputs, a dict or a dataclass of outputs."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.plain = plain
        self.image, self.facts = nn.Conv2d(3, 24, 3), nn.Linear(6, 24)
        self.body = nn.Linear(48, 64)
        self.label, self.box = nn.Linear(64, 7), nn.Linear(64, 4)

    def forward(self, image: torch.Tensor, facts: torch.Tensor) -> Any:
        pooled = F.relu(self.image(image)).mean((2, 3))
        y = F.relu(self.body(torch.cat([pooled, self.facts(facts)], dim=1)))
        if self.plain:
            return {"label": self.label(y), "box": self.box(y)}
        return Answer(self.label(y), self.box(y))


def _convs(n: int) -> nn.Sequential:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[n - 1]
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[n - 1]
    return nn.Sequential(
        conv(3, 16, 3, padding=1), norm(16), nn.ReLU(), conv(16, 32, 3, padding=1), norm(32),
        nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip


def _generator() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(20, 64 * 16), nn.Unflatten(1, (64, 4, 4)), nn.BatchNorm2d(64), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def _upscaler() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.Conv2d(32, 16 * 4, 3, padding=1),
        nn.PixelShuffle(2), nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2),
    )  # fmt: skip


def _tcn() -> nn.Sequential:
    norm = nn.utils.parametrizations.weight_norm
    return nn.Sequential(
        norm(nn.Conv1d(4, 32, 3, padding=1)), nn.ReLU(),
        norm(nn.Conv1d(32, 32, 3, padding=2, dilation=2)), nn.ReLU(), nn.Conv1d(32, 6, 1),
    )  # fmt: skip


def _images(side: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, side, side)


_STEPS = (2, 12, 16)
_PLAIN: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "lstm": (lambda: Recurrent(nn.LSTM), lambda: torch.randn(_STEPS)),
    "gru": (lambda: Recurrent(nn.GRU), lambda: torch.randn(_STEPS)),
    "rnn": (lambda: Recurrent(nn.RNN), lambda: torch.randn(_STEPS)),
    "lstm_stacked": (lambda: Recurrent(nn.LSTM, num_layers=3), lambda: torch.randn(_STEPS)),
    "lstm_two_ways": (
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
        lambda: torch.randn(_STEPS),
    ),
    "gru_two_ways": (lambda: Recurrent(nn.GRU, bidirectional=True), lambda: torch.randn(_STEPS)),
    "lstm_cell": (Cells, lambda: torch.randn(_STEPS)),
    "attention": (lambda: Attend(batch_first=True), lambda: torch.randn(_STEPS)),
    "attention_steps_first": (Attend, lambda: torch.randn(_STEPS)),
    "attention_cross": (
        lambda: Attend(cross=True, kdim=24, vdim=24, batch_first=True),
        lambda: torch.randn(_STEPS),
    ),
    "attention_no_bias": (
        lambda: Attend(bias=False, batch_first=True),
        lambda: torch.randn(_STEPS),
    ),
    "attention_bias_kv": (
        lambda: Attend(add_bias_kv=True, add_zero_attn=True, batch_first=True),
        lambda: torch.randn(_STEPS),
    ),
    "transformer": (
        Translate,
        lambda: (torch.randint(50, (2, 9)), torch.randint(50, (2, 7))),
    ),
    "cnn_1d": (lambda: _convs(1), lambda: torch.randn(2, 3, 40)),
    "cnn_3d": (lambda: _convs(3), lambda: torch.randn(2, 3, 8, 8, 8)),
    "generator": (_generator, lambda: torch.randn(2, 20)),
    "upscaler": (_upscaler, lambda: _images(16)),
    "tcn": (_tcn, lambda: torch.randn(2, 4, 30)),
    "wavenet": (WaveNet, lambda: torch.randn(2, 1, 64)),
    "siamese": (Siamese, lambda: (_images(), _images())),
    "two_towers": (TwoTowers, lambda: (_images(), torch.randint(50, (2, 6)))),
    "dict_out": (lambda: ManyHeads(True), lambda: (_images(), torch.randn(2, 6))),
    "dataclass_out": (lambda: ManyHeads(False), lambda: (_images(), torch.randn(2, 6))),
}


def names() -> list[str]:
    """All networks, `plain:lstm` and so on."""
    return [f"plain:{name}" for name in _PLAIN]


def build(name: str) -> tuple[nn.Module, Any]:
    """A network of random weights, in eval mode, and inputs for it."""
    torch.manual_seed(0)
    make, inputs = _PLAIN[name]
    return make().eval(), inputs()
