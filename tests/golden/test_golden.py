"""Golden text of the analysis of a few known models: a change in it is seen in review.

`GRAPHPRUNE_GOLDEN=write pytest tests/golden` writes the files anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

import graphprune
from graphprune.inspecting import describe
from tests.blocks import Llama

FOLDER = Path(__file__).parent

MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(),
    "densenet121": lambda: torchvision.models.densenet121(),
    "vit_tiny": lambda: timm.create_model("vit_tiny_patch16_224"),
    "shufflenet_v2": lambda: torchvision.models.shufflenet_v2_x0_5(),
    "llama": Llama,
}


@pytest.mark.parametrize("name", MODELS)
def test_groups_are_as_reviewed(name: str) -> None:
    torch.manual_seed(0)
    inputs = (torch.randint(0, 100, (2, 7)),) if name == "llama" else None
    text = describe(graphprune.analyze(MODELS[name](), inputs))
    path = FOLDER / f"{name}.txt"
    if os.environ.get("GRAPHPRUNE_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()
