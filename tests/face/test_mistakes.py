"""Mistakes that people make: each ends in an error that names the thing, and the way out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import graphprune
from graphprune import GraphPruneError, cli

QUICK: dict[str, Any] = {"compensate": False, "verify": False}
X = torch.randn(64, 8)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


class _Gone(Dataset[torch.Tensor]):
    """Data on a disk that is gone."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        raise OSError("the disk is gone")


class _Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 16)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.first(x) + y
        return out


def never(*_: Any) -> None:
    raise AssertionError("work was done before the check")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ratio": 50}, r"not 50; 50 % is 0\.5"),
        ({"round_to": 1000}, "no group can lose indices with round_to=1000.*lower it"),
        ({"importance": lambda context: 1 / 0}, "fails: ZeroDivisionError"),
        ({"data": torch.zeros(0, 8)}, "not a single batch"),
        ({"data": torch.empty(64, 8, device="meta")}, "meta device holds no numbers"),
        ({"data": DataLoader(_Gone(), 2)}, "batch 0 cannot be read: OSError: the disk is gone"),
        ({"data": torch.randn(64, 9)}, r"data: the model rejects inputs of shapes \[\(2, 9\)\]"),
        ({"data": torch.ones(64, 8, dtype=torch.long)}, r"not take inputs of type torch\.int64"),
        ({"example_inputs": torch.ones(2, 8, dtype=torch.int32)}, r"type torch\.int32"),
        ({"steps": 2, "callback": lambda: None}, r"is called with \(model, step\), and takes"),
    ],
)  # fmt: skip
def test_what_python_is_told(
    options: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphprune.Pipeline, "make", never)
    with pytest.raises(GraphPruneError, match=says):
        graphprune.shrink(net(), **{"ratio": 0.5, **QUICK, **options})


def test_a_model_without_forward_or_with_two_inputs() -> None:
    with pytest.raises(GraphPruneError, match="ModuleList has no forward"):
        graphprune.shrink(nn.ModuleList([nn.Linear(8, 8)]), 0.5, **QUICK)
    with pytest.raises(GraphPruneError) as error:
        graphprune.shrink(_Two(), 0.5, **QUICK)
    assert str(error.value).count("torch.randn(") == 2


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for name in ("damaged.npz", "damaged.pt", "weights.onnx"):
        (tmp_path / name).write_bytes(b"nothing of that kind")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    (tmp_path / "mistaken.py").write_text(
        "from torch import nn\n"
        "def net(): return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))\n"
        "def metric(model): raise KeyError('accuracy')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


SHRINK = ["shrink", "mistaken:net", "-o", "small.pt", "--compensate", "off"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["shrink", "folder", "-o", "x.pt"], "cannot read folder: it is a folder"),
        (["shrink", "folder.onnx", "-o", "x.onnx"], "cannot read folder.onnx: it is a folder"),
        (["shrink", "notes.txt", "-o", "x.pt"], "notes.txt is no .onnx, .pt2, .pt or .pth file"),
        ([*SHRINK, "--data", "damaged.npz"], "damaged, or holds Python objects"),
        ([*SHRINK, "--data", "objects.npy"], "damaged, or holds Python objects"),
        ([*SHRINK, "--weights", "damaged.pt"], "cannot read damaged.pt as a state dict"),
        ([*SHRINK, "--weights", "weights.onnx"], "weights are a .safetensors or .pt file"),
        ([*SHRINK, "--ratio", "50"], "50 % is 0.5"),
        (["inspect", "mistaken:net", "--html", "page.txt"], "the output is a .html file"),
        (["sweep", "mistaken:net", "--by", "depth"], "no way 'depth'"),
        (
            ["sweep", "mistaken:net", "--compensate", "off", "--metric", "mistaken:metric"],
            "metric(model) failed: KeyError: 'accuracy'",
        ),
    ],
)
def test_what_the_command_line_is_told(
    words: list[str],
    says: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["graphprune", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    shown = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in shown and "Traceback" not in shown
    assert shown.startswith("error: ") and len(shown.splitlines()) == 1
    assert not list(place.glob("small*"))
