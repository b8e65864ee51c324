"""Models that are described by a config object, as those of Hugging Face."""

from __future__ import annotations

from torch import nn


def has_config(model: nn.Module) -> bool:
    """Whether a model is saved and reloaded through a config that holds its sizes."""
    return hasattr(model, "save_pretrained") and hasattr(getattr(model, "config", None), "to_dict")
