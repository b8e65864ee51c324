"""How time and memory grow with depth: the same block repeated, graphprune beside Torch-Pruning.

    pip install torch-pruning
    python tools/bench_scale.py --out scale

Analyse, score and select are timed apart from the capture by torch.export; memory is what these
three allocate at most, by tracemalloc, in a run of its own. Beyond `--real` repetitions the
weights are fake tensors, which have shapes and no numbers: analysis and selection alone are timed
there. The exponent is that of a power law fitted by least squares to the logarithms.
"""

from __future__ import annotations

import argparse
import json
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timing import least
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from graphprune.choice.request import Request
from graphprune.choice.select import select
from graphprune.choice.tie import preferences
from graphprune.core.graph import Graph
from graphprune.core.groups import Dependencies
from graphprune.frontends.torch.lift import lift
from graphprune.importance.score import score
from graphprune.passes.couple import couple

WIDTH = 64


class Block(nn.Module):
    """A bottleneck of three convolutions around a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        inner = WIDTH // 2
        self.body = nn.Sequential(
            nn.Conv2d(WIDTH, inner, 1), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, WIDTH, 1), nn.BatchNorm2d(WIDTH),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images in, images out."""
        out: torch.Tensor = torch.relu(x + self.body(x))
        return out


def build(repeats: int) -> nn.Sequential:
    """A stem, so many blocks, and a classifier."""
    blocks = [Block() for _ in range(repeats)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 10)]
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), *blocks, *head).eval()


def chosen(deps: Dependencies, real: bool) -> object:
    """Score and select; of fake weights, select alone, as if all scored the same."""
    ones = [np.ones(group.size) for group in deps.groups]
    return select(
        deps, score(deps) if real else ones, Request(0.5), preferences(deps, [], alike=False)
    )


def ours(repeats: int, real: bool) -> dict[str, float]:
    """Seconds of each stage and bytes of all."""
    with FakeTensorMode() if not real else torch.no_grad():
        model = build(repeats)
        graph: Graph = lift(model, ((torch.randn(2, 3, 8, 8),), {})).graph
    deps = couple(graph)
    chosen(deps, real)  # compiles
    found = {"analyse": least(lambda: couple(graph))}
    if real:
        found["score"] = least(lambda: score(deps))
    found["select"] = least(lambda: chosen(deps, False))
    tracemalloc.start()
    chosen(couple(graph), real)
    found["bytes"] = float(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    return {**found, "total": sum(v for k, v in found.items() if k != "bytes")}


def peer(repeats: int) -> float | str:
    """Seconds of Torch-Pruning to find, score and choose among the same groups."""
    try:
        import torch_pruning as tp
    except ImportError:
        return "not installed"
    model, x = build(repeats), torch.randn(2, 3, 8, 8)

    def work() -> None:
        pruner: Any = tp.pruner.BasePruner(
            model,
            x,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.3,
            ignored_layers=[model[-1]],
        )
        list(pruner.step(interactive=True))

    try:
        return least(work, 1)
    except Exception as error:
        return f"failed: {type(error).__name__}"


def exponent(repeats: list[int], values: list[float]) -> float:
    """The power of the repetitions that values grow with."""
    return float(np.polyfit(np.log(repeats), np.log(values), 1)[0])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, nargs="*", default=[6, 12, 24, 48, 96])
    parser.add_argument("--real", type=int, default=96, help="most repetitions with real weights")
    parser.add_argument("--peer", type=int, default=96, help="most repetitions for the peer")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    text = [
        "| blocks | analyse ms | score ms | select ms | total ms | MB | Torch-Pruning ms |",
        "|---|---|---|---|---|---|---|",
    ]
    print(*text, sep="\n")
    rows: list[dict[str, Any]] = []
    for repeats in options.repeats:
        found: dict[str, Any] = {"blocks": repeats, **ours(repeats, repeats <= options.real)}
        found["peer"] = peer(repeats) if repeats <= options.peer else "not run"
        rows.append(found)
        stages = ("analyse", "score", "select", "total")
        cells = [f"{found[k] * 1e3:.1f}" if k in found else "" for k in stages]
        theirs = found["peer"]
        shown = f"{theirs * 1e3:.0f}" if isinstance(theirs, float) else theirs
        text.append(f"| {repeats} | {' | '.join(cells)} | {found['bytes'] / 1e6:.2f} | {shown} |")
        print(text[-1], flush=True)
    for key in ("total", "bytes", "peer"):
        alike = [r for r in rows if isinstance(r[key], float) and r["blocks"] <= options.real]
        if len(alike) > 1:
            power = exponent([r["blocks"] for r in alike], [r[key] for r in alike])
            text.append(f"\nexponent of {key}: {power:.2f}")
            print(text[-1].strip())
    if options.out:
        options.out.with_suffix(".md").write_text("\n".join(text) + "\n")
        options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
