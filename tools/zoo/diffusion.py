"""Tiny models of diffusers: denoisers and an autoencoder."""

from __future__ import annotations

from typing import Any

_BLOCKS = {
    "layers_per_block": 1,
    "block_out_channels": (32, 64),
    "norm_num_groups": 8,
    "sample_size": 16,
}
_TEXT = {"cross_attention_dim": 48, "attention_head_dim": 8}
_DIT = {"num_attention_heads": 4, "attention_head_dim": 12, "sample_size": 16, "patch_size": 2}

# name → (class, options, what its forward takes)
MODELS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "unet2d": (
        "UNet2DModel",
        {
            **_BLOCKS,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        },
        ("image", "step"),
    ),
    "unet2d_condition": (
        "UNet2DConditionModel",
        {
            **_BLOCKS,
            **_TEXT,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        ("latent", "step", "text"),
    ),
    "autoencoder_kl": (
        "AutoencoderKL",
        {
            **_BLOCKS,
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
        },
        ("image",),
    ),
    "vq_model": (
        "VQModel",
        {
            **_BLOCKS,
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
        },
        ("image",),
    ),
    "dit": (
        "DiTTransformer2DModel",
        {**_DIT, "num_layers": 2, "norm_num_groups": 8},
        ("latent", "timestep", "class_labels"),
    ),
    "pixart": (
        "PixArtTransformer2DModel",
        {
            **_DIT,
            "num_layers": 2,
            "norm_num_groups": 8,
            "cross_attention_dim": 48,
            "caption_channels": 24,
        },
        ("latent", "encoder_hidden_states", "timestep"),
    ),
    "sd3": (
        "SD3Transformer2DModel",
        {
            **_DIT,
            "num_layers": 2,
            "in_channels": 4,
            "joint_attention_dim": 32,
            "caption_projection_dim": 48,
            "pooled_projection_dim": 24,
            "out_channels": 4,
        },
        ("latent", "joint", "pooled", "timestep"),
    ),
}


def names() -> list[str]:
    """All models, `diffusers:dit` and so on."""
    return [f"diffusers:{name}" for name in MODELS]


def build(name: str) -> tuple[Any, dict[str, Any]]:
    """A tiny model of random weights, in eval mode, and its keyword arguments."""
    import diffusers
    import torch

    kind, options, takes = MODELS[name]
    torch.manual_seed(0)
    model = getattr(diffusers, kind)(**options).eval()
    known: dict[str, tuple[str, Any]] = {
        "image": ("sample", torch.randn(2, 3, 16, 16)),
        "latent": ("hidden_states", torch.randn(2, 4, 16, 16)),
        "step": ("timestep", torch.tensor(7)),
        "timestep": ("timestep", torch.tensor([7, 9])),
        "text": ("encoder_hidden_states", torch.randn(2, 6, 48)),
        "encoder_hidden_states": ("encoder_hidden_states", torch.randn(2, 6, 24)),
        "joint": ("encoder_hidden_states", torch.randn(2, 6, 32)),
        "pooled": ("pooled_projections", torch.randn(2, 24)),
        "class_labels": ("class_labels", torch.tensor([3, 5])),
    }
    inputs = dict(known[key] for key in takes)
    if kind.startswith("UNet2DCondition"):
        inputs["sample"] = inputs.pop("hidden_states")
    if kind.startswith("PixArt"):
        inputs["added_cond_kwargs"] = {"resolution": None, "aspect_ratio": None}
    return model, inputs
