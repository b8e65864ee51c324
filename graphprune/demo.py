"""`graphprune demo`: train, shrink and save a small residual network on real data."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from graphprune.api import plan
from graphprune.core.errors import GraphPruneError
from graphprune.core.progress import tracked
from graphprune.exporting import write_module
from graphprune.report.text import show

Split = tuple[Tensor, Tensor]
_SECONDS = 20  # that pruning may take; with four times as many the accuracy was the same


class Block(nn.Module):
    """Two convolutions around a skip connection."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Images in, images out: `n x c x h x w`."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.skip(x))


class DigitsNet(nn.Module):
    """A small residual network for 8 x 8 grey images and ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.blocks = nn.Sequential(Block(32, 32), Block(32, 64, 2), Block(64, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images `n x 1 x 8 x 8` to logits `n x 10`."""
        return cast(Tensor, self.head(self.blocks(self.stem(x)).mean((2, 3))))


def digits() -> tuple[Split, Split]:
    """Scikit-learn's handwritten digits: images and labels to train on, and to test with."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images.astype(np.float32) / 8 - 1).unsqueeze(1)
    labels = torch.from_numpy(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    train, test = order[:1347], order[1347:]
    return (images[train], labels[train]), (images[test], labels[test])


def accuracy(model: nn.Module, data: Split) -> float:
    """Share of images that a model classifies correctly."""
    with torch.no_grad():
        return float((model.eval()(data[0]).argmax(1) == data[1]).float().mean())


def train(model: nn.Module, data: Split, epochs: int, rate: float, label: str) -> None:
    """Train a classifier, with a progress bar."""
    images, labels = data
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    generator = torch.Generator().manual_seed(1)
    for _ in tracked(range(epochs), label, epochs):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order), 64):
            batch = order[start : start + 64]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[batch]), labels[batch], label_smoothing=0.1)
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
    model.eval()


def run(out: Path, ratio: float, epochs: int, console: Console) -> None:
    """Train, shrink, fine-tune and save.

    Args:
        out: Folder for the results; made if it does not exist.
        ratio: Fraction of the parameters to remove.
        epochs: Epochs of training; fine-tuning takes a fifth of them.
        console: Where to print.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GraphPruneError(f"cannot write to {out}: {error.strerror}") from error
    torch.manual_seed(0)
    data, test = digits()
    model = DigitsNet()
    train(model, data, epochs, 3e-3, "training on handwritten digits")
    before = accuracy(model, test)

    plain = plan(model, ratio, example_inputs=test[0][:2], compensate=False, verify=False).apply()
    made = plan(model, ratio, example_inputs=test[0][:2], effort=_SECONDS)
    small = made.apply()
    assert made.report is not None
    rows = [
        ("accuracy, no data used", f"{before:.1%}", f"{accuracy(small, test):.1%}"),
        ("without compensation", f"{before:.1%}", f"{accuracy(plain, test):.1%}"),
    ]
    show(made.report, console, rows)

    tuning = max(epochs // 5, 1)
    train(small, data, tuning, 1e-3, f"fine-tuning for {tuning} epochs")
    console.print(f"accuracy after {tuning} epochs of fine-tuning: {accuracy(small, test):.1%}")
    save(small, test[0], out, console)
    made.save(out / "plan.json")
    console.print(f"wrote {out / 'plan.json'}")


def save(small: nn.Module, images: Tensor, out: Path, console: Console) -> None:
    """Write a model as `.pt2` and `.onnx`, and check the latter against the module."""
    for name in ("digits-small.pt2", "digits-small.onnx"):
        write_module(small, ((images[:2],), {}), out / name)
    console.print(f"wrote {out / 'digits-small.pt2'}")
    with torch.no_grad():
        wanted = small(images[:32]).numpy()
    runner, found = _run_onnx(out / "digits-small.onnx", images[:32].numpy())
    gap = float(np.abs(found - wanted).max())
    console.print(
        f"wrote {out / 'digits-small.onnx'}: {runner} agrees (largest difference {gap:.1e})"
    )


def _run_onnx(path: Path, images: np.ndarray) -> tuple[str, np.ndarray]:
    try:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return "ONNX Runtime", session.run(None, {session.get_inputs()[0].name: images})[0]
    except ImportError:
        import onnx
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(onnx.load(path))
        results: list[np.ndarray] = evaluator.run(None, {evaluator.input_names[0]: images})  # type: ignore[assignment]
        return "the reference evaluator", results[0]
