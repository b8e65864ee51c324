"""Two layers in a row in place of one: by singular values alone, by factor, by widths, by both.

    python tools/bench_factor.py digits --nets VGG-BN ResNet-BN ViT
    python tools/bench_factor.py minilm --ratios 0.2 0.4

At equal parameters, from the same inputs, without fine-tuning: `svd` truncates every layer by its
own singular values at one share of its rank; `svd + curves` does so with ranks that loss curves
choose, and inputs of no account; `factor` looks at what layers read; `width` removes channels
(`shrink`); `both` chooses widths and ranks within one budget. Scores are better higher.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from accuracy.pretrained import MODELS
from accuracy.subject import Subject
from accuracy.tasks import TASKS
from bench_sparsify import subjects
from torch import nn

import graphprune

Method = Callable[[Subject, float], nn.Module]


def svd(subject: Subject, ratio: float) -> nn.Module:
    """Ranks at one share of each layer's own, by its singular values alone."""
    return graphprune.plan(
        subject.model, ratio, passes=graphprune.FACTOR, example_inputs=subject.inputs[:2],
        compensate=False, allocation="uniform",
    ).apply()  # fmt: skip


def curves(subject: Subject, ratio: float) -> nn.Module:
    """Ranks by loss curves of the weights alone."""
    return graphprune.factor(
        subject.model, ratio, example_inputs=subject.inputs[:2], compensate=False
    )


def factor(subject: Subject, ratio: float) -> nn.Module:
    """Ranks and weights by what layers read."""
    return graphprune.factor(subject.model, ratio, data=subject.inputs)


def width(subject: Subject, ratio: float) -> nn.Module:
    """Channels go."""
    return graphprune.shrink(subject.model, ratio, data=subject.inputs)


def both(subject: Subject, ratio: float) -> nn.Module:
    """Channels go, and layers become two, within one budget."""
    return graphprune.shrink(subject.model, ratio, data=subject.inputs, passes=graphprune.BOTH)


METHODS: dict[str, Method] = {
    "svd": svd, "svd + curves": curves, "factor": factor, "width": width, "both": both,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    known = [*TASKS, *MODELS]
    parser.add_argument("tasks", nargs="+", choices=known, metavar="TASK", help=", ".join(known))
    parser.add_argument("--nets", nargs="*", default=["VGG-BN", "ResNet-BN", "ViT"], metavar="NET")
    parser.add_argument("--ratios", nargs="*", type=float, default=[0.3, 0.5, 0.7])
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=128, help="of pretrained networks' inputs")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--epochs", type=int, default=None, help="of training, for a quick look")
    arguments = parser.parse_args()
    head = ("network", "ratio", "dense", "method", "score", "parameters", "seconds")
    print("|", " | ".join(head), "|\n" + "|---" * len(head) + "|")
    for name, subject, _ in subjects(arguments):
        dense = subject.score(subject.model)
        for ratio in arguments.ratios:
            for method in arguments.methods:
                start = time.perf_counter()
                try:
                    small = METHODS[method](subject, ratio)
                except graphprune.GraphPruneError as error:
                    print(f"{name} {ratio} {method}: {error}", file=sys.stderr)
                    continue
                took = time.perf_counter() - start
                sizes = [sum(p.numel() for p in m.parameters()) for m in (subject.model, small)]
                left = sizes[1] / sizes[0]
                with torch.no_grad():
                    score = subject.score(small)
                cells = (name, f"{ratio}", f"{dense:.2f}", method, f"{score:.2f}", f"{left:.1%}")
                print("|", " | ".join((*cells, f"{took:.1f}")), "|", flush=True)


if __name__ == "__main__":
    main()
