"""What passes find, and all passes that are defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which registers itself here
    from graphprune.pipeline.step import Pass

FINDINGS = ("deps", "scores", "zeros", "ranks", "choice", "lowered")
"""What passes find: coupled groups, scores of their indices, how many numbers of each layer become
zero, which layers can become two, what stays, the smaller model."""

PASSES: dict[str, type[Pass]] = {}
"""All passes that are defined, by name."""
