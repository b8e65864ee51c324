"""Hugging Face transformers: tiny models of random weights, built from their config classes."""

from __future__ import annotations

from typing import Any

from zoo.hf import senses, text

# name → (class, options of its config)
MODELS = text.MODELS | senses.MODELS


def names() -> list[str]:
    """All models, `hf:bert` and so on."""
    return [f"hf:{name}" for name in MODELS]


def build(name: str) -> Any:
    """A tiny model of random weights, in eval mode."""
    import torch
    import transformers

    kind, options = MODELS[name]
    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    return cls(cls.config_class(**options)).eval()
