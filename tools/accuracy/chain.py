"""The chain to a small int8 file: shrink, recover, int8, ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import onnx
import torch
from torch import nn

import graphprune
from accuracy.nets import Images, Inverted
from accuracy.tasks import Split, Task
from graphprune.exporting import write_module
from graphprune.frontends.onnx.speed import speed
from graphprune.quantising.quantise import KINDS

TIMED = 64
"""Images of the runs that are timed."""

_ROUNDS = 8  # fractions that are tried until the bytes fit

_CLOSE = 0.02  # how far above the asked compression the first fraction that fits may be

_CALIBRATED = 16  # images for a file of which only the bytes count


@dataclass(frozen=True)
class Asked:
    """What is asked of the chain.

    Attributes:
        budget: Fractions of costs that go.
        kind: Of int8.
    """

    budget: Mapping[str, float]
    kind: str


@dataclass(frozen=True)
class Chain:
    """One run of the chain.

    Attributes:
        kind: Of int8.
        times: Times fewer bytes of the ONNX file.
        macs: Times fewer multiply-accumulates.
        floats: Times as fast as the dense float file in ONNX Runtime, before int8.
        faster: The same of the int8 file.
        scores: % right by stage: original, shrink, recover, int8.
    """

    kind: str
    times: float
    macs: float
    floats: float
    faster: float
    scores: Mapping[str, float]

    @property
    def lost(self) -> float:
        """Points lost from the dense float file to the int8 file."""
        return self.scores["original"] - self.scores["int8"]


_COLUMNS = (
    "network", "asked", "kind", "fewer bytes", "fewer MACs", "faster, float", "faster, int8",
    "dense", "shrink", "recover", "int8", "lost",
)  # fmt: skip

HEAD = f"| {' | '.join(_COLUMNS)} |\n|{'---|' * len(_COLUMNS)}"
"""The head of the table whose rows `line` gives."""


def line(name: str, wanted: float, found: Sequence[Chain]) -> str:
    """A row of means over several trainings, with the points lost in each."""
    scores = [mean(x.scores[stage] for x in found) for stage in found[0].scores]
    ratios = [
        mean(getattr(x, what) for x in found) for what in ("times", "macs", "floats", "faster")
    ]
    each = ", ".join(f"{x.lost:.1f}" for x in found)
    cells = [
        name, f"{wanted:g}", " / ".join(sorted({x.kind for x in found})),
        *(f"{x:.1f}" for x in (*ratios, *scores)),
        f"{mean(x.lost for x in found):.1f} ({each})",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def with_wide(task: Task) -> Task:
    """A task with a MobileNet of twice the width, whose stem halves the image.

    The small one's weights are no more bytes than what else its int8 file holds, so that nothing
    of it can be 20 times smaller.
    """
    return replace(task, nets={**task.nets, "MobileNet-wide": _wide})


def _wide() -> nn.Module:
    widths = [(48, 48, 1), (48, 64, 2), (64, 64, 1), (64, 96, 2), (96, 96, 1)]
    blocks = [Inverted(i, o, stride) for i, o, stride in widths]
    stem = [nn.Conv2d(1, 48, 3, 2, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU6()]
    return Images(nn.Sequential(*stem, *blocks), 96)


def chain(
    model: nn.Module, task: Task, held: Split, asked: Asked, recover: Mapping[str, Any]
) -> Chain:
    """Shrink, recover, quantise, and measure every file.

    Args:
        model: A trained network.
        task: What it was trained on.
        held: What every stage is judged by.
        asked: What is asked of it.
        recover: Options of `graphprune.recover`.
    """

    def judge(predict: Callable[..., Any]) -> float:
        right = [predict(x).argmax(1) == y for x, y in _pieces(held)]
        return 100 * float(torch.cat(right).float().mean())

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = graphprune.deploy(
            model, budget=asked.budget, data=task.train, out=folder / "out.onnx", metric=judge,
            recover=dict(recover), int8=asked.kind, folder=folder / "stages",
        )  # fmt: skip
        first, floats, last = (
            onnx.load(folder / "stages" / f"{stage}.onnx")
            for stage in ("original", "recover", "int8")
        )
    assert done.macs is not None
    return Chain(
        asked.kind, done.compression, done.macs[0] / done.macs[1], _faster(first, floats, held),
        _faster(first, last, held), {stage.name: stage.metric or 0.0 for stage in done.stages},
    )  # fmt: skip


def asked_for(model: nn.Module, task: Task, times: float, memory: float | None = None) -> Asked:
    """What gives an int8 file of so many times fewer bytes, of the kind that suits this machine.

    Args:
        model: A trained network.
        task: What it was trained on.
        times: How many times fewer.
        memory: Fraction of the memory of activations that goes besides: heads of attention go
            first then.
    """
    inputs, low, high = task.inputs[:_CALIBRATED], 0.0, 1.0
    options: Any = {"compensate": False, "verify": False}

    def budget(fraction: float) -> dict[str, float]:
        return {"params": fraction} if memory is None else {"params": fraction, "memory": memory}

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "small.onnx"
        fraction = 1 - 4 / times
        first = graphprune.deploy(model, budget=budget(fraction), data=inputs, out=path, **options)
        whole, found = first.stages[0].bytes, first.stages[-1].bytes
        told = next(note for note in first.warnings if note.startswith("int8: "))
        kind = next(kind for kind in KINDS if told.startswith(f"int8: {kind}"))
        for _ in range(_ROUNDS):
            if times <= whole / found <= times * (1 + _CLOSE):
                break
            low, high = (low, fraction) if whole / found > times else (fraction, high)
            # A parameter is four bytes of the dense file, and one of the other.
            fraction += (found - whole / (times * (1 + _CLOSE / 2))) / (whole / 4)
            if not low < fraction < high:
                fraction = (low + high) / 2
            options["budget"] = budget(fraction)
            plan = graphprune.plan(model, example_inputs=inputs[:2], **options)
            write_module(plan.apply(), ((inputs[:2],), {}), path)
            found = graphprune.quantise(path, inputs, kind=kind, names=False).bytes[1]
    return Asked(budget(fraction), kind)


def _faster(before: onnx.ModelProto, after: onnx.ModelProto, held: Split) -> float:
    """Times as fast, on a batch."""
    feed = {before.graph.input[0].name: held[0][:TIMED].numpy()}
    found = speed(before, after, feed)
    assert found is not None
    return found[0] / found[1]


def _pieces(held: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return zip(torch.split(held[0], 500), torch.split(held[1], 500), strict=True)
