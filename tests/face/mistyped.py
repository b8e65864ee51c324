"""Calls with wrong options: mypy refuses each, or complains of an `ignore` that nothing needs."""

from __future__ import annotations

from torch import nn

import graphprune


def wrong(model: nn.Linear) -> None:
    """Every call here is a mistake that an editor shows; none is ever run."""
    graphprune.shrink(model, 0.5, compensat=False)  # type: ignore[call-arg]
    graphprune.shrink(model, 0.5, steps="two")  # type: ignore[arg-type]
    graphprune.shrink(model, ratios=0.5, ratio="half")  # type: ignore[arg-type]
    graphprune.plan(model, 0.5, efort="fast")  # type: ignore[call-arg]
    graphprune.plan(model, 0.5, round_to=[8])  # type: ignore[arg-type]
    graphprune.plan(model, 0.5, steps=3)  # type: ignore[call-arg]


def right(model: nn.Linear) -> nn.Linear:
    """What a caller passes keeps its class."""
    graphprune.plan(model, 0.5, "macs", effort="fast", keep=["0"]).apply().in_features.bit_length()
    return graphprune.shrink(model, ratio=0.5, ratios={"0": 0.25}, steps=2)
