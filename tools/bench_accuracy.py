"""Accuracy after one-shot pruning, without fine-tuning, beside Torch-Pruning's.

    python tools/bench_accuracy.py --seeds 3 --cache /tmp/nets

Trains small networks on scikit-learn's digits, prunes each to the same budgets with every
method, and prints the mean top-1 accuracy on test images as Markdown. Every method is shown
without and with recalibration of the batch norms, so that the latter is credited to none.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from nets import NETS
from torch import Tensor, nn

import graphprune

Split = tuple[Tensor, Tensor]
Method = Callable[[nn.Module, str, float, Split], nn.Module]
BUDGETS = ("params:0.5", "macs:0.5", "channels:0.3", "channels:0.5", "channels:0.7")
_EPOCHS = {"ViT": 60, "Mixer": 60, "LSTM": 60}


def digits(seed: int) -> tuple[Split, Split]:
    """Training and test images, split anew for each seed."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images.astype(np.float32) / 8 - 1).unsqueeze(1)
    labels = torch.from_numpy(data.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1000 + seed))
    train, test = order[:1197], order[1197:]
    return (images[train], labels[train]), (images[test], labels[test])


def accuracy(model: nn.Module, data: Split) -> float:
    with torch.no_grad():
        return 100 * float((model.eval()(data[0]).argmax(1) == data[1]).float().mean())


def train(model: nn.Module, data: Split, epochs: int, seed: int, rate: float = 3e-3) -> None:
    images, labels = data
    steps = epochs * -(-len(images) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order), 64):
            batch = order[start : start + 64]
            shift = torch.randint(-1, 2, (2,), generator=generator).tolist()
            optimizer.zero_grad()
            found = model(torch.roll(images[batch], shift, (2, 3)))
            torch.autograd.backward(F.cross_entropy(found, labels[batch], label_smoothing=0.1))
            optimizer.step()
            schedule.step()
    model.eval()


def trained(name: str, seed: int, data: Split, epochs: int | None, cache: Path | None) -> nn.Module:
    torch.manual_seed(seed)
    model = NETS[name]()
    path = None if cache is None else cache / f"{name}-{seed}.pt"
    if path is not None and path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model.eval()
    train(model, data, epochs or _EPOCHS.get(name, 20), seed)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    return model


def ours(**options: Any) -> Method:
    def prune(model: nn.Module, of: str, ratio: float, data: Split) -> nn.Module:
        given = dict(options)
        if "data" in given:
            given["data"] = [data[0][: given["data"]]]
        return graphprune.shrink(model, ratio, of, example_inputs=data[0][:2], **given)

    return prune


def torch_pruning(importance: str) -> Method:
    """Torch-Pruning's BasePruner, the same fraction of every layer, brought to the budget."""

    def prune(model: nn.Module, of: str, ratio: float, data: Split) -> nn.Module:
        if of == "channels":
            return _pruned(model, importance, ratio, data)
        low, high = 0.0, 1.0
        full = _cost(model, of, data)
        for _ in range(7):
            middle = (low + high) / 2
            small = _pruned(model, importance, middle, data)
            low, high = (
                (middle, high) if _cost(small, of, data) > full * (1 - ratio) else (low, middle)
            )
        return _pruned(model, importance, high, data)

    return prune


def _cost(model: nn.Module, of: str, data: Split) -> float:
    import torch_pruning as tp

    macs, params = tp.utils.count_ops_and_params(copy.deepcopy(model), data[0][:1])
    return float(params if of == "params" else macs)


def _pruned(model: nn.Module, importance: str, ratio: float, data: Split) -> nn.Module:
    import torch_pruning as tp

    small = copy.deepcopy(model)
    kinds = {
        "L2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "BN scale": tp.importance.BNScaleImportance,
        "Taylor": tp.importance.GroupTaylorImportance,
    }
    pruner = tp.pruner.BasePruner(
        small, data[0][:2], kinds[importance](), pruning_ratio=ratio, ignored_layers=[small.head]
    )
    if importance == "Taylor":
        torch.autograd.backward(F.cross_entropy(small(data[0][:256]), data[1][:256]))
    pruner.step()
    small(data[0][:2])
    small.zero_grad()
    return small


def recalibrated(model: nn.Module, images: Tensor) -> nn.Module:
    """Batch-norm statistics taken anew from images."""
    out = copy.deepcopy(model)
    norms = [m for m in out.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        out(images)
    return out.eval()


METHODS: dict[str, Method] = {
    "graphprune, no data": ours(),
    "graphprune, no data, fast": ours(effort="fast"),
    "graphprune, 256 images": ours(data=256),
    "graphprune, not compensated": ours(compensate=False),
    "Torch-Pruning, group L2": torch_pruning("L2"),
    "Torch-Pruning, BN scale": torch_pruning("BN scale"),
    "Torch-Pruning, Taylor (256 labels)": torch_pruning("Taylor"),
}


def results(
    model: nn.Module, method: Method, of: str, ratio: float, data: Split, test: Split
) -> tuple[float, float]:
    """Accuracy as pruned, and with batch norms recalibrated on 256 real images."""
    try:
        small = method(model, of, ratio, data)
        return accuracy(small, test), accuracy(recalibrated(small, data[0][:256]), test)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        print(f"  failed: {lines[0][:90]}", file=sys.stderr)
        return float("nan"), float("nan")


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    budgets = [(of, float(r)) for of, r in (budget.split(":") for budget in arguments.budgets)]
    yield "| network | dense | method | " + " | ".join(f"{of} {r:g}" for of, r in budgets) + " |"
    yield "|---" * (3 + len(budgets)) + "|"
    means: dict[str, list[Any]] = {name: [] for name in arguments.methods}
    for net in arguments.nets:
        dense: list[float] = []
        found: dict[str, list[Any]] = {name: [] for name in arguments.methods}
        for seed in range(arguments.seeds):
            data, test = digits(seed)
            model = trained(net, seed, data, arguments.epochs, arguments.cache)
            dense.append(accuracy(model, test))
            for name in arguments.methods:
                start = time.perf_counter()
                one = [results(model, METHODS[name], of, r, data, test) for of, r in budgets]
                print(f"{net} {seed} {name} {time.perf_counter() - start:.0f} s", file=sys.stderr)
                found[name].append(one)
        for name, values in found.items():
            mean = np.mean(values, axis=0)
            means[name].append(mean)
            yield f"| {net} | {np.mean(dense):.1f} | {name} | {_cells(mean)} |"
    for name, several in means.items():
        yield f"| mean | | {name} | {_cells(np.mean(several, axis=0))} |"


def _cells(values: Any) -> str:
    return " | ".join(
        "failed" if np.isnan(plain) else f"{plain:.1f} ({again:.1f})" for plain, again in values
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=list(NETS), metavar="NET")
    parser.add_argument(
        "--methods", nargs="*", default=list(METHODS), choices=list(METHODS), metavar="M"
    )
    parser.add_argument("--budgets", nargs="*", default=list(BUDGETS), metavar="OF:RATIO")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--cache", type=Path, default=None, help="folder for trained networks")
    print("top-1 in %; in brackets with batch norms recalibrated on 256 real images")
    for row in rows(parser.parse_args()):
        print(row, flush=True)


if __name__ == "__main__":
    main()
