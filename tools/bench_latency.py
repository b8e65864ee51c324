"""Speed-up asked for, predicted and measured, beside `of="macs"` at the same number of parameters.

    OMP_NUM_THREADS=1 python tools/bench_latency.py resnet50 mobilenet_v2 --backends eager

Weights are untrained: latency does not depend on them. *Planned* is what the plan measured when it
was made; *again* is measured afterwards, the original, the smaller model and that of `of="macs"` in
turns, medians of the ratios within a turn. One image or sentence of 128 tokens at a time.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import graphprune
from graphprune.choice.choose import Chooser
from graphprune.choice.request import Request
from graphprune.core.errors import BudgetError
from graphprune.core.program import Inputs
from graphprune.costs.latency import forward_seconds
from graphprune.costs.registry import cost_of
from graphprune.frontends.backends import backend
from graphprune.frontends.opening import open_model
from graphprune.importance.free import free
from graphprune.importance.score import score
from graphprune.passes.couple import couple

RUNS = 25


def _image(name: str) -> tuple[nn.Module, Inputs]:
    build: Callable[..., nn.Module] = getattr(torchvision.models, name)
    return build(weights=None), ((torch.randn(1, 3, 224, 224),), {})


def _bert() -> tuple[nn.Module, Inputs]:
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=6,
                        intermediate_size=1536, use_cache=False)  # fmt: skip
    return BertModel(config), ((), {"input_ids": torch.randint(0, 1000, (1, 128))})


def built(name: str) -> tuple[nn.Module, Inputs]:
    """A model with untrained weights, and inputs for it."""
    torch.manual_seed(0)
    model, inputs = _bert() if name == "bert" else _image(name)
    return model.eval(), inputs


def by_macs(model: nn.Module, inputs: Inputs, params: int) -> nn.Module:
    """The model shrunk by `of="macs"` to a number of parameters."""
    program = open_model(model, inputs).program
    deps = couple(program.graph)
    chooser = Chooser(program, deps, lambda: free(deps))
    scores = score(deps)
    count = cost_of(deps, "params")
    low, high = 0.0, 0.99
    for _ in range(9):
        middle = (low + high) / 2
        try:
            choice = chooser.choose(Request(middle, "macs"), scores)
        except BudgetError:
            high = middle
            continue
        left = count(deps.counts(choice.selection.keep))
        low, high = (middle, high) if left > params else (low, middle)
    found: nn.Module = program.runnable(chooser.choose(Request(low, "macs"), scores).expressed)
    return found


def measure(name: str, kind: str, ratio: float) -> dict[str, Any]:
    """One row: a model, a backend, and a fraction of the latency to remove."""
    model, inputs = built(name)
    start = time.perf_counter()
    plan = graphprune.plan(
        model, ratio, "latency", example_inputs=inputs[1] or inputs[0], backend=kind,
        compensate=False, verify=False,
    )  # fmt: skip
    spent = time.perf_counter() - start
    small = plan.apply()
    assert plan.report is not None and plan.report.latency is not None
    before, after = plan.report.latency
    rival = by_macs(model, inputs, plan.report.params[1])
    slow, fast, macs = forward_seconds([model, small, rival], inputs, backend(kind), RUNS)
    return {
        "model": name,
        "backend": kind,
        "asked": 1 / (1 - ratio),
        "predicted": plan.report.predicted,
        "planned": before / after,
        "again": slow / fast,
        "of macs": slow / macs,
        "params": [plan.report.params[1], sum(p.numel() for p in rival.parameters())],
        "ms": slow * 1e3,
        "plan seconds": spent,
    }


def line(row: dict[str, Any]) -> str:
    """One row of the table."""
    return (
        f"| {row['model']} | {row['backend']} | {row['ms']:.1f} | {row['asked']:.2f} "
        f"| {row['predicted']:.2f} | {row['planned']:.2f} | {row['again']:.2f} "
        f"({row['again'] / row['asked']:.0%}) | {row['of macs']:.2f} | {row['plan seconds']:.0f} |"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["resnet50", "mobilenet_v2", "bert"])
    parser.add_argument("--backends", nargs="*", default=["eager", "onnxruntime"])
    parser.add_argument("--ratios", nargs="*", type=float, default=[0.3, 0.5])
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(f"threads: {torch.get_num_threads()}")
    text = [
        "| model | backend | ms | asked x | predicted | planned | again | of macs | plan s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    print(*text, sep="\n")
    rows = []
    for name in options.models:
        for kind in options.backends:
            for ratio in options.ratios:
                rows.append(measure(name, kind, ratio))
                text.append(line(rows[-1]))
                print(text[-1], flush=True)
    if options.out:
        options.out.with_suffix(".md").write_text("\n".join(text) + "\n")
        options.out.with_suffix(".json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
