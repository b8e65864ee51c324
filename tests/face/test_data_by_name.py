"""Whoever takes calibration data takes the name of a file, and a folder of pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune

NET = nn.Sequential(
    nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(256, 4)
)
LIKE: dict[str, Any] = {"example_inputs": torch.zeros(2, 3, 8, 8)}
QUICK: dict[str, Any] = {**LIKE, "effort": "fast"}


def _applied(data: str) -> Any:
    plan = graphprune.plan(NET, 0.3, compensate=True, **QUICK)
    plan.apply(data=data)
    return plan.report


def _recalibrated(data: str) -> Any:
    small = graphprune.shrink(NET, 0.3, compensate=False, **LIKE)
    return graphprune.recalibrate(small, data)


DOORS: dict[str, Callable[[str], Any]] = {
    "shrink": lambda data: graphprune.shrink(NET, 0.3, data=data, **QUICK),
    "steps": lambda data: graphprune.shrink(NET, 0.6, data=data, steps=2, **QUICK),
    "sparsify": lambda data: graphprune.sparsify(NET, 0.3, data=data, **QUICK),
    "factor": lambda data: graphprune.factor(NET, 0.1, data=data, **QUICK),
    "compact": lambda data: graphprune.compact(NET, assume="data", data=data, **LIKE),
    "sensitivity": lambda data: graphprune.sensitivity(NET, 0.3, data=data, **QUICK),
    "apply": _applied,
    "recalibrate": _recalibrated,
}


@pytest.mark.parametrize("door", DOORS)
def test_a_file(door: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((8, 3, 8, 8), np.float32))
    DOORS[door](str(tmp_path / "x.npy"))
    with pytest.raises(graphprune.GraphPruneError, match="there is no file"):
        DOORS[door](str(tmp_path / "y.npy"))


@pytest.mark.parametrize("door", DOORS)
def test_a_folder_of_pictures(door: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 255, (12, 10, 3), np.uint8)
        image.fromarray(pixels).save(tmp_path / f"{number}.png")
    DOORS[door](str(tmp_path))
