"""What the README shows does run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import graphprune

torchvision = pytest.importorskip("torchvision")
_README = (Path(__file__).parents[1] / "README.md").read_text()


def _code(title: str) -> str:
    """The first block of code below a title."""
    found = re.search(rf"^#+ {title}$.*?^```python\n(.*?)^```$", _README, re.M | re.S)
    assert found, title
    return found[1]


def test_two_towers_lose_the_same_dimensions(capsys: pytest.CaptureFixture[str]) -> None:
    names = {"graphprune": graphprune, "torch": torch, "torchvision": torchvision}
    exec(_code("One mask for two modalities"), names)
    members = capsys.readouterr().out.split()
    assert {"images.fc.weight[0]", "images.fc.bias[0]", "texts.1.weight[0]"} <= {*members}
