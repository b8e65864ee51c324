"""Speed: analysis and `graphprune.shrink` beside Torch-Pruning, in one run on the same models.

    pip install torch-pruning
    OMP_NUM_THREADS=1 python tools/bench_speed.py --out speed
    OMP_NUM_THREADS=1 python tools/bench_speed.py resnet50 --compensate

Medians over several runs, in processor seconds: give it one thread. The peer is its BasePruner
with magnitude importance, told which layer is the classifier, removing as large a share of the
channels as leads to half of the parameters (`pruning_ratio = 1 - sqrt(0.5)`); graphprune gets the
model and a ratio. Neither compensates; the check is a column of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import graphprune
from graphprune.core.program import Inputs
from graphprune.frontends.torch.lift import lift
from graphprune.passes.couple import couple

MODELS = (
    "resnet18",
    "resnet50",
    "resnet152",
    "densenet121",
    "densenet201",
    "mobilenet_v3_large",
    "convnext_tiny",
    "vit_b_16",
    "swin_t",
)


def median(work: Callable[[], object], runs: int) -> float:
    """Median time of a call, in processor seconds."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


def build(name: str) -> nn.Module:
    """A torchvision model with random weights, in eval mode."""
    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model.eval()


def ours(name: str, runs: int) -> dict[str, float]:
    """Seconds for the stages of graphprune."""
    model = build(name)
    inputs: Inputs = ((torch.randn(2, 3, 224, 224),), {})
    program = lift(model, inputs)
    graphprune.shrink(model, 0.5, example_inputs=inputs[0], verify=False)  # compiles kernels

    def forward() -> None:
        with torch.no_grad():
            model(*inputs[0])

    def shrink(verify: bool) -> None:
        graphprune.shrink(model, 0.5, example_inputs=inputs[0], compensate=False, verify=verify)

    return {
        "capture": median(lambda: lift(model, inputs), runs),
        "analysis": median(lambda: couple(program.graph), 3 * runs),
        "shrink": median(lambda: shrink(False), runs),
        "verified": median(lambda: shrink(True), runs),
        "forward": median(forward, runs),
    }


def peer(name: str, runs: int) -> float | str:
    """Seconds for Torch-Pruning to do the same, or why it cannot."""
    try:
        import torch_pruning as tp
    except ImportError:
        return "not installed"
    times = []
    for _ in range(runs):
        model = build(name)
        x = torch.randn(2, 3, 224, 224)
        last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        start = time.process_time()
        try:
            pruner: Any = tp.pruner.BasePruner(
                model,
                x,
                importance=tp.importance.MagnitudeImportance(),
                pruning_ratio=1 - 0.5**0.5,
                ignored_layers=[last],
            )
            pruner.step()
        except Exception as error:
            return f"failed: {type(error).__name__}"
        times.append(time.process_time() - start)
        try:
            with torch.no_grad():
                model(x)
        except Exception as error:
            return f"failed: its result does not run ({type(error).__name__})"
    return statistics.median(times)


def compensated(name: str, runs: int) -> str:
    """What compensation at the least effort adds, in processor seconds and captures."""
    model = build(name)
    inputs: Inputs = ((torch.randn(2, 3, 224, 224),), {})

    def seconds(work: Callable[[], object]) -> float:
        work()  # loads and compiles
        return median(work, runs)

    def shrink(compensate: bool) -> None:
        graphprune.shrink(
            model,
            0.5,
            example_inputs=inputs[0],
            compensate=compensate,
            effort="fast",
            verify=False,
        )

    capture = seconds(lambda: lift(model, inputs))
    added = seconds(lambda: shrink(True)) - seconds(lambda: shrink(False))
    return f"{name}: capture {capture:.2f} s, compensation {added:.1f} s, {added / capture:.1f} x"


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    checking = found["verified"] - found["shrink"]
    theirs, ratio = found["peer"], ""
    if isinstance(theirs, float):
        theirs, ratio = f"{theirs:.2f}", f"{theirs / found['shrink']:.1f} x"
    return (
        f"| {found['model']} | {found['capture']:.3f} | {found['analysis'] * 1e3:.1f} "
        f"| {found['shrink']:.2f} "
        f"| {checking:.2f} ({checking / found['forward']:.1f}) | {theirs} | {ratio} |"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    parser.add_argument("--compensate", action="store_true", help="what the least effort adds")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.compensate:
        for name in options.models:
            print(compensated(name, options.runs), flush=True)
        return
    rows: list[dict[str, Any]] = []
    text = [
        "| model | capture s | analysis ms | shrink s | check s (forward passes) "
        "| Torch-Pruning s | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in options.models:
        found: dict[str, Any] = {"model": name, **ours(name, options.runs)}
        found["peer"] = peer(name, options.runs)
        rows.append(found)
        text.append(line(found))
        print(text[-1], flush=True)
    if options.out:
        options.out.with_suffix(".md").write_text("\n".join(text) + "\n")
        options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
