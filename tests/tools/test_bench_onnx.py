"""A smoke run of the comparison of groups, on a small net of the kind that it is made for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import bench_onnx

FACTORY = """
from torch import nn

class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.deep = nn.Conv2d(6, 20, 1), nn.Conv2d(20, 20, 3, padding=1, groups=20)
        self.first, self.second = nn.BatchNorm2d(20), nn.BatchNorm2d(20)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(20, 5, 1), nn.ReLU(), nn.Conv2d(5, 20, 1),
            nn.Hardsigmoid(),
        )
        self.down, self.last = nn.Conv2d(20, 6, 1, bias=False), nn.BatchNorm2d(6)

    def forward(self, x):
        y = self.second(self.deep(nn.functional.hardswish(self.first(self.up(x)))))
        return x + self.last(self.down(y * self.gate(y)))

def net():
    stem = nn.Conv2d(3, 6, 3, stride=16)
    return nn.Sequential(
        stem, Gated(), Gated(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 9)
    ).eval()
"""


def test_the_same_groups_both_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "factory_for_groups.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench_onnx.py", "--groups", "factory_for_groups:net"])
    assert bench_onnx.main() == 0
    assert "factory_for_groups:net | identical | identical" in capsys.readouterr().out
