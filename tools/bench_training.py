"""Pruning while a network trains, side by side at equal training.

    python tools/bench_training.py digits --nets ResNet-BN VGG-BN --seeds 3
    python tools/bench_training.py fashion --split test

Every network is trained, then every method gets as many epochs again:

- structured, a share of the parameters removed: one-shot and tuning; the same with compensation;
  `recover` (without labels); group lasso or gates (half of the epochs), then one-shot and tuning;
  gradual removal until half of the epochs are over; Torch-Pruning's group lasso, where it is
  installed, half of the epochs too;
- single weights, trained from scratch: SNIP's masks, gradual magnitude, SET, RigL;
- the chain: shrink, recover, int8, ONNX Runtime, with the bytes of files before and after.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import itertools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accuracy.peers import torch_pruning_lasso
from accuracy.tasks import TASKS, Task
from accuracy.training import accuracy, train, trained
from torch import nn

import graphprune
from graphprune.training import Gates, Gradual, GroupLasso, Schedule, SparseTraining

STRENGTH = 0.1
"""Of the group lasso, at first: it grows until the target is met."""

LOOKS = 40
"""How often it may grow, at most."""

PEER = "Torch-Pruning's group lasso"

Row = dict[str, list[float]]


def structured(
    model: nn.Module, task: Task, epochs: int, seed: int, ratio: float
) -> dict[str, Any]:
    """Smaller networks of one trained network, by method."""
    first, half = task.inputs[:2], max(epochs // 2, 1)

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

    def lasso() -> nn.Module:
        net = copy.deepcopy(model)

        def attach(optimizer: torch.optim.Optimizer, steps: int) -> None:
            every = max(steps // LOOKS, 1)
            penalty = GroupLasso(net, STRENGTH, example_inputs=first, target=ratio, every=every)
            penalty.attach(optimizer)

        tuned(net, half, attach)
        small = graphprune.shrink(
            net, ratio, importance="group_norm", example_inputs=first, compensate=False
        )
        return tuned(small, epochs - half)

    def gated() -> nn.Module:
        net = copy.deepcopy(model)
        held: list[Gates] = []

        def attach(optimizer: torch.optim.Optimizer, steps: int) -> None:
            held.append(Gates(net, ratio, example_inputs=first, warmup=steps // 2))
            held[0].attach(optimizer)

        tuned(net, half, attach)
        return tuned(held[0].plan(compensate=False).apply(), epochs - half)

    def gradual() -> nn.Module:
        net = copy.deepcopy(model)

        def attach(optimizer: torch.optim.Optimizer, steps: int) -> None:
            end = steps // 2
            schedule = Schedule(0.0, ratio, steps // 10, end, max((end - steps // 10) // 6, 1))
            Gradual(net, schedule, example_inputs=first).attach(optimizer)

        return tuned(net, epochs, attach)

    def peer() -> nn.Module:
        net = copy.deepcopy(model)
        pruner, pruned = torch_pruning_lasso(net, first)

        def attach(optimizer: torch.optim.Optimizer, steps: int) -> None:
            each, done = max(steps // half, 1), itertools.count()

            def press(*_: Any) -> None:
                if next(done) % each == 0:
                    pruner.update_regularizer()
                pruner.regularize(net)

            optimizer.register_step_pre_hook(press)

        tuned(net, half, attach)
        return tuned(pruned(ratio), epochs - half)

    return {
        PEER: peer,
        "one-shot, tuned": one_shot, "compensated, tuned": compensated,
        "compensated, recovered": recovered, "group lasso": lasso, "gates": gated,
        "gradual": gradual,
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

    return {
        "SNIP": by("fixed", start="snip", data=(task.inputs, task.labels)),
        "gradual magnitude": by("gradual"),
        "SET": by("set"),
        "RigL": by("rigl"),
    }


def chain(
    model: nn.Module, task: Task, held: Any, epochs: int, ratio: float
) -> list[tuple[str, float, float]]:
    """Stages of `deploy`: name, times fewer bytes, accuracy."""

    def judge(predict: Any) -> float:
        return 100 * float((predict(held[0]).argmax(1) == held[1]).float().mean())

    with tempfile.TemporaryDirectory() as folder:
        done = graphprune.deploy(
            model, ratio, data=task.train[0], out=Path(folder) / "out.onnx", metric=judge,
            recover={"epochs": epochs},
        )  # fmt: skip
    whole = done.stages[0].bytes
    return [(stage.name, whole / stage.bytes, stage.metric or 0.0) for stage in done.stages]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=[name for name in TASKS if name != "words"])
    parser.add_argument("--nets", nargs="*", default=["ResNet-BN", "MobileNet", "VGG-BN", "ViT"])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--methods", nargs="*", help="rows by name, or chain; all by default")
    parser.add_argument("--epochs", type=int, help="of each method; the task's own by default")
    parser.add_argument("--ratio", type=float, default=0.8, help="of the parameters, structured")
    parser.add_argument("--sparsity", type=float, default=0.9, help="of single weights")
    parser.add_argument("--split", choices=["validation", "test"], default="validation")
    arguments = parser.parse_args()
    for name in arguments.nets:
        rows: Row = {}
        for seed in range(arguments.seeds):
            task = TASKS[arguments.task](seed)
            held = task.test if arguments.split == "test" else task.validation
            epochs = arguments.epochs or task.epochs.get(name, task.epochs[""])
            model = trained(name, arguments.task, task, seed)
            rows.setdefault("dense", []).append(accuracy(model, held))
            methods = structured(model, task, epochs, seed, arguments.ratio)
            if not importlib.util.find_spec("torch_pruning"):
                del methods[PEER]
            methods |= sparse(task.nets[name], task, epochs, seed, arguments.sparsity)
            for method, run in methods.items():
                if not arguments.methods or method in arguments.methods:
                    rows.setdefault(method, []).append(accuracy(run(), held))
            if arguments.methods and "chain" not in arguments.methods:
                continue
            for stage, times, score in chain(model, task, held, epochs, arguments.ratio):
                rows.setdefault(f"chain: {stage}", []).append(score)
                rows.setdefault(f"chain: {stage}, times fewer bytes", []).append(times)
        print(f"\n{name}, {arguments.task}, {arguments.split}, {arguments.seeds} trainings")
        for method, found in rows.items():
            print(f"  {method:38} {statistics.mean(found):6.1f}  {[round(x, 1) for x in found]}")


if __name__ == "__main__":
    main()
