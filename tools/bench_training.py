"""Pruning while a network trains, side by side at equal training.

    python tools/bench_training.py digits --nets ResNet-BN VGG-BN --seeds 3
    python tools/bench_training.py fashion --split test
    python tools/bench_training.py fashion --chain 10 20 --nets ResNet-BN --labels --whole

Every network is trained, then every method gets as many epochs again:

- structured, a share of the parameters removed: one-shot and tuning; the same with compensation;
  `recover` (without labels); gates (a third of the epochs), then one-shot and tuning; group lasso,
  that closes what goes within a third of the epochs (by norms, or by what it loses on data);
  gradual removal until half of the epochs are over, and the same compensated; where they are
  installed, Torch-Pruning's group lasso, a third of the epochs too, at the strength that is best on
  the validation split, and the one-shots of torch-kirigami and fasterai;
- single weights, trained from scratch: SNIP's masks, gradual magnitude, SET, RigL, and NNCF's
  magnitude where it is installed;

`--chain` runs shrink, recover (without labels, or with `--labels`), int8 and ONNX Runtime instead,
to files of so many times fewer bytes, and prints a table. With `--whole` it is judged by all test
images of Fashion-MNIST; with `--memory 0.5` half of the memory of activations goes, too, which
takes heads of attention.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from accuracy.chain import HEAD, Chain, asked_for, chain, line, with_wide
from accuracy.peers import (
    TORCH_PRUNING_STRENGTHS,
    Beyond,
    fasterai,
    kirigami,
    nncf_magnitude,
    torch_pruning_lasso,
)
from accuracy.tasks import TASKS, Task, fashion_tested
from accuracy.training import accuracy, train, trained
from torch import nn

import graphprune
from graphprune.compensation import calibration
from graphprune.training import Gates, Gradual, GroupLasso, Schedule, SparseTraining

STRENGTH = 0.1
"""Of the group lasso, at first: it grows until the target is met."""

PART = 1 / 3
"""Of the epochs until a lasso has closed all, or gates are done. Chosen on the validation split
(digits, ResNet, three trainings): gates 98.8 against 97.8 for a half, the standard error some 0.5.
Lassos close nearly all at once whatever the share: each of four trainings gives the same for two
thirds."""

WHOLE = "whole"
"""Stands for all images of the test split, where a task takes some of them."""

LOOKS = 40
"""How often it may grow, at most."""

PEERS = {
    "Torch-Pruning's group lasso": "torch_pruning", "torch-kirigami, tuned": "torch_kirigami",
    "fasterai, tuned": "fasterai", "NNCF's magnitude": "nncf",
}  # fmt: skip
"""Rows of other tools, with the module that each needs; left out where it is not installed."""

Row = dict[str, list[float]]


def structured(
    model: nn.Module, task: Task, epochs: int, seed: int, ratio: float
) -> dict[str, Any]:
    """Smaller networks of one trained network, by method."""
    first, part = task.inputs[:2], max(round(epochs * PART), 1)

    def tuned(net: nn.Module, number: int, attach: Any = None) -> nn.Module:
        if attach is None:
            return train(net, task, number, seed, 1e-3)
        return train(net, task, number, seed, 1e-3, attach)

    def one_shot() -> nn.Module:
        small = graphprune.shrink(
            model, ratio, importance="group_norm", example_inputs=first, compensate=False
        )
        return tuned(small, epochs)

    def compensated() -> nn.Module:
        return tuned(graphprune.shrink(model, ratio, data=task.inputs), epochs)

    def recovered() -> nn.Module:
        small = graphprune.shrink(model, ratio, data=task.inputs)
        return graphprune.recover(small, model, task.train[0], epochs=epochs, seed=seed)

    def lasso(data: Any = None) -> nn.Module:
        net = copy.deepcopy(model)

        def attach(optimizer: torch.optim.Optimizer, steps: int) -> None:
            every = max(round(steps * PART) // LOOKS, 1)
            GroupLasso(
                net, STRENGTH, example_inputs=first, target=ratio, every=every, data=data
            ).attach(optimizer)

        # What is closed stays at zero: training goes on in one cycle of the learning rate.
        tuned(net, epochs, attach)
        return graphprune.shrink(
            net, ratio, importance="group_norm", example_inputs=first, compensate=False
        )

    def gated() -> nn.Module:
        net = copy.deepcopy(model)
        held: list[Gates] = []

        def attach(optimizer: torch.optim.Optimizer, steps: int) -> None:
            held.append(Gates(net, ratio, example_inputs=first, warmup=steps // 2))
            held[0].attach(optimizer)

        tuned(net, part, attach)
        return tuned(held[0].plan(compensate=False).apply(), epochs - part)

    def gradual(data: Any = None) -> nn.Module:
        net = copy.deepcopy(model)

        def attach(optimizer: torch.optim.Optimizer, steps: int) -> None:
            end = steps // 2
            schedule = Schedule(0.0, ratio, steps // 10, end, max((end - steps // 10) // 6, 1))
            Gradual(net, schedule, example_inputs=first, data=data).attach(optimizer)

        return tuned(net, epochs, attach)

    def peer() -> nn.Module:
        tried = [press(strength) for strength in TORCH_PRUNING_STRENGTHS]
        return max(tried, key=lambda net: accuracy(net, task.validation))

    def press(strength: float) -> nn.Module:
        net = copy.deepcopy(model)
        pruner, pruned = torch_pruning_lasso(net, first, strength)

        def attach(optimizer: torch.optim.Optimizer, steps: int) -> None:
            each, done = max(steps // part, 1), itertools.count()

            def before(*_: Any) -> None:
                if next(done) % each == 0:
                    pruner.update_regularizer()
                pruner.regularize(net)

            optimizer.register_step_pre_hook(before)

        tuned(net, part, attach)
        return tuned(pruned(ratio), epochs - part)

    return {
        "Torch-Pruning's group lasso": peer,
        "torch-kirigami, tuned": lambda: tuned(kirigami(model, first, ratio), epochs),
        "fasterai, tuned": lambda: tuned(fasterai(model, first, ratio), epochs),
        "one-shot, tuned": one_shot, "compensated, tuned": compensated,
        "compensated, recovered": recovered, "group lasso": lasso, "gates": gated,
        "group lasso, by data": lambda: lasso(task.inputs),
        "gradual": gradual, "gradual, compensated": lambda: gradual(task.inputs),
    }  # fmt: skip


def sparse(
    make: Callable[[], nn.Module], task: Task, epochs: int, seed: int, ratio: float
) -> dict[str, Any]:
    """Networks trained from scratch with most weights at zero, by method."""

    def by(method: str, **options: Any) -> Callable[[], nn.Module]:
        def run() -> nn.Module:
            torch.manual_seed(seed)
            net = make()

            def attach(optimizer: torch.optim.Optimizer, steps: int) -> None:
                schedule = Schedule(0.0, ratio, 0, int(0.75 * steps), max(steps // 40, 1))
                found = SparseTraining(
                    net, schedule, method, example_inputs=task.inputs[:2], seed=seed, **options
                )
                found.attach(optimizer)

            return train(net, task, epochs, seed, attach=attach)

        return run

    def peer() -> nn.Module:
        torch.manual_seed(seed)
        net, before = nncf_magnitude(make(), task.inputs[:2], ratio, max(int(0.75 * epochs), 1))

        def attach(optimizer: torch.optim.Optimizer, steps: int) -> None:
            each, done = max(steps // epochs, 1), itertools.count()
            optimizer.register_step_pre_hook(lambda *_: before() if not next(done) % each else None)

        return train(net, task, epochs, seed, attach=attach)

    return {
        "NNCF's magnitude": peer,
        "SNIP": by("fixed", start="snip", data=(task.inputs, task.labels)),
        "gradual magnitude": by("gradual"),
        "SET": by("set"),
        "RigL": by("rigl"),
    }


def chained(
    name: str, kind: str, times: list[float], seeds: int, epochs: int | None, part: str,
    labels: bool, memory: float | None,
) -> None:  # fmt: skip
    """Print what the chain to so many times fewer bytes gives, for one kind of network."""
    for wanted in times:
        rows: list[Chain] = []
        asked = None
        for seed in range(seeds):
            task = with_wide(TASKS[kind](seed))
            held = task.test if part == "test" else task.validation
            held = fashion_tested() if part == WHOLE else held
            model = trained(name, kind, task, seed)
            number = epochs or task.epochs.get(name, task.epochs[""])
            recover = {"epochs": number, "seed": seed, "loss": labels}
            # Bytes hardly depend on the seed.
            asked = asked or asked_for(model, task, wanted, memory)
            rows.append(chain(model, task, held, asked, recover))
        print(line(name, wanted, rows), flush=True)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chain", nargs="*", type=float, help="times fewer bytes, instead")
    parser.add_argument("--whole", action="store_true", help="judge the chain by all test images")
    parser.add_argument("--labels", action="store_true", help="count in the chain's recover")
    parser.add_argument("--memory", type=float, help="fraction that goes besides, in the chain")
    parser.add_argument("task", choices=[name for name in TASKS if name != "words"])
    parser.add_argument("--nets", nargs="*", default=["ResNet-BN", "MobileNet", "VGG-BN", "ViT"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="*", help="rows by name; all by default")
    parser.add_argument("--epochs", type=int, help="of each method; the task's own by default")
    parser.add_argument("--ratio", type=float, default=0.8, help="of the parameters, structured")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of single weights")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    arguments = parser.parse_args()
    # By the clock, a busy machine ends descents that a quiet one does not.
    vars(calibration)["AUTO_SECONDS"] = math.inf
    if arguments.whole and arguments.task != "fashion":
        parser.error("--whole is for fashion: of other tasks all test images count already")
    if arguments.chain is not None:
        print(HEAD, flush=True)
        for name in arguments.nets:
            chained(
                name, arguments.task, arguments.chain or [10.0, 20.0], arguments.seeds,
                arguments.epochs, WHOLE if arguments.whole else arguments.split, arguments.labels,
                arguments.memory,
            )  # fmt: skip
        return
    for name in arguments.nets:
        rows: Row = {}
        for seed in range(arguments.seeds):
            task = TASKS[arguments.task](seed)
            held = task.test if arguments.split == "test" else task.validation
            epochs = arguments.epochs or task.epochs.get(name, task.epochs[""])
            model = trained(name, arguments.task, task, seed)
            rows.setdefault("dense", []).append(accuracy(model, held))
            methods = structured(model, task, epochs, seed, arguments.ratio)
            methods |= sparse(task.nets[name], task, epochs, seed, arguments.sparsity)
            for row, needed in PEERS.items():
                if not importlib.util.find_spec(needed):
                    del methods[row]
            for method, run in methods.items():
                if not arguments.methods or method in arguments.methods:
                    try:
                        score = accuracy(run(), held)
                    except Beyond as reason:
                        print(f"{name}, {method}, training {seed}: {reason}", flush=True)
                    else:
                        rows.setdefault(method, []).append(score)
        print(f"\n{name}, {arguments.task}, {arguments.split}, {arguments.seeds} trainings")
        for method, found in rows.items():
            print(f"  {method:38} {statistics.mean(found):6.1f}  {[round(x, 1) for x in found]}")


if __name__ == "__main__":
    main()
