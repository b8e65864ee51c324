"""What a constant of the method is worth: accuracy with other values of it, side by side.

    python tools/bench_constants.py WORTH_PLAIN 0.1 0.3 1 --on mobilenet crepe --effort fast
    python tools/bench_constants.py UNEXPLAINED 0.1 1 --on digits --nets VGG-BN ViT --inputs 16

Constants stand in the `constants.py` of their package, by one name. The first value should be
today's. Every network is shrunk once for each value and budget, without data unless `--inputs`
says how many real ones may be used; scores are of the validation split. `digits` and `fashion`
train small networks first; pretrained ones come out of packages.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from accuracy.pretrained import MODELS, pretrained
from accuracy.subject import Subject
from accuracy.tasks import TASKS
from accuracy.training import accuracy, trained

import graphprune

LARGE, SMALL = ("macs:0.1", "macs:0.2"), ("params:0.5", "channels:0.5")
"""Budgets for pretrained networks, and for small ones."""


@contextmanager
def value_of(name: str, value: object) -> Iterator[None]:
    """Another value of a constant, wherever it has been imported."""
    held = [
        module
        for path, module in list(sys.modules.items())
        if path.startswith("graphprune") and name in vars(module)
    ]
    if not held:
        sys.exit(f"error: no module of graphprune has a constant {name}")
    before = [vars(module)[name] for module in held]
    for module in held:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, old in zip(held, before, strict=True):
            setattr(module, name, old)


def subjects(arguments: argparse.Namespace) -> Iterator[tuple[str, Subject]]:
    """The networks, by name."""
    for kind in arguments.on:
        if kind in MODELS:
            yield kind, pretrained(kind, "validation")
            continue
        task = TASKS[kind](0)
        for net in arguments.nets or task.nets:
            if net in task.nets:
                model = trained(net, kind, task, 0, arguments.epochs)
                score = partial(accuracy, data=task.validation)
                yield f"{kind} {net}", Subject(model, task.inputs, task.labels, score)


def row(subject: Subject, arguments: argparse.Namespace, budgets: list[str]) -> list[float]:
    """The score at every budget; not a number where that failed."""
    scores = []
    data = [subject.inputs[: arguments.inputs]] if arguments.inputs else None
    for budget in budgets:
        of, ratio = budget.split(":")
        try:
            small = graphprune.shrink(
                subject.model, float(ratio), of, data=data, example_inputs=subject.example,
                effort=arguments.effort, verify=False,
            )  # fmt: skip
            scores.append(subject.score(small))
        except graphprune.GraphPruneError as error:
            print(f"  {budget}: {error}", file=sys.stderr)
            scores.append(float("nan"))
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    known = [*TASKS, *MODELS]
    parser.add_argument("name", help="of the constant")
    parser.add_argument("values", nargs="+", type=literal_eval, help="as written in Python")
    parser.add_argument("--on", nargs="+", choices=known, required=True, metavar="TASK")
    parser.add_argument("--nets", nargs="*", default=None, help="of small networks, these alone")
    parser.add_argument("--budgets", nargs="*", default=None, metavar="OF:RATIO")
    parser.add_argument("--inputs", type=int, default=0, help="real inputs that may be used")
    parser.add_argument("--effort", default="auto", choices=("auto", "fast", "full"))
    parser.add_argument("--epochs", type=int, default=None, help="of training, for a quick look")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    for label, subject in subjects(arguments):
        large = label in MODELS
        budgets = list(arguments.budgets or (LARGE if large else SMALL))
        print(f"{label}, dense {subject.score(subject.model):.4g}: {', '.join(budgets)}")
        for value in arguments.values:
            start = time.perf_counter()
            with value_of(arguments.name, value):
                scores = row(subject, arguments, budgets)
            told = "  ".join(f"{score:.4g}" for score in scores)
            seconds = time.perf_counter() - start
            print(f"  {arguments.name} = {value!r}: {told}  ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
