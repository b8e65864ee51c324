"""Pretrained networks out of packages, with real inputs to score them on."""

from __future__ import annotations

from collections.abc import Callable

from accuracy.subject import Subject

MODELS: dict[str, Callable[[str], Subject]] = {}
"""For a name, makes the subject of a split."""


def pretrained(name: str, split: str) -> Subject:
    """A pretrained network."""
    return MODELS[name](split)
