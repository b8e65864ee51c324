"""Small networks, each with one way in which dimensions hold together."""

from __future__ import annotations

import torch
from torch import nn

from tests.blocks.attention import Attention, Encoder, Llama, RMSNorm, WholeHeads
from tests.blocks.convolutions import (
    Auxiliary,
    Dense,
    Fourier,
    PaddedShortcut,
    Residual,
    Shuffle,
    SqueezeExcite,
    Standardised,
)
from tests.blocks.inputs import Block, Inputs, images, tokens
from tests.blocks.sequences import Masked, Mixer, Recurrent
from tests.blocks.sequential import SEQUENTIAL
from tests.blocks.sharing import Shared, Tied, TwoTowers, spectral_norm, weight_norm

__all__ = [
    "BLOCKS",
    "Attention",
    "Auxiliary",
    "Block",
    "Dense",
    "Encoder",
    "Fourier",
    "Inputs",
    "Llama",
    "Masked",
    "Mixer",
    "PaddedShortcut",
    "RMSNorm",
    "Recurrent",
    "Residual",
    "Shared",
    "Shuffle",
    "SqueezeExcite",
    "Standardised",
    "Tied",
    "TwoTowers",
    "WholeHeads",
    "images",
    "tokens",
]

BLOCKS: dict[str, Block] = {
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
    "padded shortcut": (PaddedShortcut, images),
    "fourier": (Fourier, images),
    "standardised weights": (Standardised, images),
    "mask in place": (Masked, lambda: (torch.randn(2, 5, 12),)),
    "auxiliary head": (Auxiliary, images),
    "two towers": (TwoTowers, lambda: (*images(), *tokens())),
    "fixed width": (Encoder, lambda: (torch.randn(2, 5, 32),)),
    "weight norm": (weight_norm, lambda: (torch.randn(2, 6),)),
    "spectral norm": (spectral_norm, images),
    **SEQUENTIAL,
    "transformer": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, enable_nested_tensor=False
        ),
        lambda: (torch.randn(2, 5, 32),),
    ),
}
