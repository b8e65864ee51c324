"""The coverage benchmark: one row for each model, and a summary."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tools"))

import bench_coverage
import zoo
from measure import _trains, measure


@pytest.mark.filterwarnings("ignore")
def test_a_model_becomes_a_row_and_a_failure_is_counted() -> None:
    row = {"of": "params"} | measure("plain:two_towers", 0.5, "params", onnx=False)
    assert row["same_output"] and row["trains"] is True and row["difference"] < 1e-12
    assert row["achieved"] == pytest.approx(0.5, abs=0.01)
    failed = {"of": "params", "model": "plain:none", "error": "KeyError: 'none'"}
    text = "\n".join(bench_coverage.lines([row, failed]))
    assert "Of params: 1 of 2 run." in text and "FAILED: KeyError: 'none'" in text
    assert "- one training step works: 1 of 1" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1, "all lines of the table have the same cells"


def test_sets_and_single_names_make_one_list() -> None:
    names = zoo.names_of(["plain", "timm:resnet18"])
    assert names[-1] == "timm:resnet18" and "plain:lstm" in names


def test_detectors_are_trained_on_an_object_in_each_image() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.boxes = nn.Linear(3, 4)

        def forward(self, images: list[torch.Tensor], targets: Any = None) -> Any:
            assert not self.training or len(targets) == len(images)
            found = [self.boxes(image.mean((1, 2))) for image in images]
            if not self.training:
                return found
            pairs = zip(found, targets, strict=True)
            return {"loss": sum((a - b["boxes"][0]).abs().sum() for a, b in pairs)}

    assert _trains(Detector(), ([torch.rand(3, 8, 9), torch.rand(3, 7, 7)],), {}) is True
