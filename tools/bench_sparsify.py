"""Zeros in weights: magnitude, Wanda, SparseGPT's own recipe and graphprune, side by side.

    python tools/bench_sparsify.py digits --nets VGG-BN ResNet-BN MobileNet ViT
    python tools/bench_sparsify.py minilm smollm --ratios 0.5 2:4

The peers are written down here from their papers: the least |w| of each layer, or of all
(`magnitude`, `global`); |w| times the norm of what it meets, row by row (`wanda`, Sun et al., ICLR
2024); and SparseGPT (Frantar & Alistarh, ICML 2023): columns from left to right in blocks of 128,
1 % damping, layer after layer from what the sparse layers before give. All make the same number of
zeros in the same weights, from the same inputs, without fine-tuning. Perplexities of `smollm` are
better lower; accuracies and correlations, higher. `off` is how far outputs are from the dense
network's on inputs that no method saw, as a share of these. Seconds are the processor's.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from accuracy.pretrained import MODELS, pretrained
from accuracy.subject import Subject
from accuracy.tasks import TASKS
from accuracy.training import accuracy, trained
from torch import Tensor, nn

import graphprune
from graphprune.sparsity.patterns import Pattern, pattern_of

_DAMPING, _BLOCK = 0.01, 128  # SparseGPT's own
_BATCH = 16
_UNSEEN = 64  # inputs on which outputs are compared
NETS = ("VGG-BN", "ResNet-BN", "MobileNet", "ViT", "Mixer")


def matrix(module: nn.Module) -> Tensor:
    """A weight as `outputs x columns`, as PyTorch lays it out."""
    return module.get_parameter("weight").detach().flatten(1)


def moments(model: nn.Module, modules: Sequence[nn.Module], inputs: Tensor) -> list[Tensor]:
    """Second moments of what modules read, `groups x columns x columns`, from one pass."""
    sums: list[Tensor | None] = [None] * len(modules)
    rows = [0] * len(modules)

    def hook(at: int) -> Callable[..., None]:
        def seen(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = columns(module, args[0])
            rows[at] += x.shape[1]
            found = (x.mT @ x).double()
            held = sums[at]
            sums[at] = found if held is None else held + found

        return seen

    handles = [m.register_forward_pre_hook(hook(i)) for i, m in enumerate(modules)]
    with torch.no_grad():
        for part in torch.split(inputs, _BATCH):
            model(part)
    for handle in handles:
        handle.remove()
    return [total / n for total, n in zip(sums, rows, strict=True) if total is not None]


def columns(module: nn.Module, x: Tensor) -> Tensor:
    """What each column of a weight is multiplied with, `groups x rows x columns`."""
    if not isinstance(module, nn.Conv2d):
        return x.reshape(1, -1, x.shape[-1])
    x = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)  # type: ignore[arg-type]
    n, wide, places = x.shape
    x = x.view(n, module.groups, wide // module.groups, places)
    return x.permute(1, 0, 3, 2).flatten(1, 2)


def put(module: nn.Module, rows: Tensor) -> None:
    held = module.get_parameter("weight")
    held.data.copy_(rows.view_as(held))


def along(module: nn.Module, rows: Tensor, pattern: Pattern) -> Tensor:
    """Columns in the order in which N:M runs along channels; its own inverse is `back`."""
    if not pattern.of or not isinstance(module, nn.Conv2d):
        return rows
    k = module.kernel_size[0] * module.kernel_size[1]
    return rows.view(len(rows), -1, k).mT.flatten(1)


def back(module: nn.Module, rows: Tensor, pattern: Pattern) -> Tensor:
    if not pattern.of or not isinstance(module, nn.Conv2d):
        return rows
    k = module.kernel_size[0] * module.kernel_size[1]
    return rows.view(len(rows), k, -1).mT.flatten(1)


def by_scores(module: nn.Module, scores: Tensor, pattern: Pattern, ratio: float, row: bool) -> None:
    """Zero the least."""
    gone = round(ratio * scores.numel())
    kept = pattern.choose(along(module, scores, pattern), gone, row)
    put(module, matrix(module) * back(module, kept, pattern))


def sweep(module: nn.Module, hessian: Tensor, pattern: Pattern, ratio: float) -> None:
    """SparseGPT's column-wise update of one layer."""
    groups = len(hessian)
    weight = matrix(module).double()
    out, width = weight.shape
    order = along(module, torch.arange(width)[None], pattern)[0]
    weight = weight[:, order].view(groups, out // groups, width)
    hessian = hessian[:, order][:, :, order]
    for g in range(groups):
        h, w = hessian[g], weight[g]
        dead = h.diagonal() == 0
        h.diagonal()[dead] = 1
        w[:, dead] = 0
        h.diagonal().add_(_DAMPING * h.diagonal().mean())
        h = torch.cholesky_inverse(torch.linalg.cholesky(h))
        factor = torch.linalg.cholesky(h, upper=True)
        for start in range(0, width, _BLOCK):
            stop = min(start + _BLOCK, width)
            pivots = factor.diagonal()[start:stop]
            cost = w[:, start:stop].square() / pivots.square()
            kept = pattern.choose(cost, round(ratio * cost.numel()))
            errors = torch.zeros_like(cost)
            for at in range(stop - start):
                column = w[:, start + at]
                errors[:, at] = torch.where(kept[:, at], 0.0, column) / pivots[at]
                behind = factor[start + at, start + at : stop]
                w[:, start + at : stop] -= errors[:, at, None] * behind
            w[:, start:stop] *= kept
            w[:, stop:] -= errors @ factor[start:stop, stop:]
    new = torch.empty(out, width, dtype=torch.float64)
    new[:, order] = weight.reshape(out, width)
    put(module, new.float())


def stages(model: nn.Module, names: Sequence[str]) -> Iterator[list[nn.Module]]:
    """Layers that are pruned from one pass: those of one block, as the authors do."""
    blocks: dict[str, list[nn.Module]] = {}
    for name in names:
        parts = name.split(".")
        number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        large = len(names) > 30
        key = ".".join(parts[: number + 1]) if large and number is not None else name
        blocks.setdefault(key, []).append(model.get_submodule(name))
    yield from blocks.values()


def peer(
    method: str, subject: Subject, names: Sequence[str], pattern: Pattern, ratio: float
) -> nn.Module:
    """A copy with zeros in the layers named."""
    model = copy.deepcopy(subject.model).eval()
    modules = [model.get_submodule(name) for name in names]
    if method == "global":
        each = torch.cat([matrix(m).abs().flatten() for m in modules])
        edge = each.kthvalue(round(ratio * len(each))).values
        for module in modules:
            put(module, matrix(module) * (matrix(module).abs() > edge))
    elif method == "magnitude":
        for module in modules:
            by_scores(module, matrix(module).abs(), pattern, ratio, False)
    elif method == "wanda":
        for several in stages(model, names):
            for module, found in zip(several, moments(model, several, subject.inputs), strict=True):
                norms = found.diagonal(dim1=1, dim2=2).sqrt().float()
                rows = matrix(module)
                scores = rows.abs().view(len(norms), -1, rows.shape[1]) * norms[:, None]
                by_scores(module, scores.view_as(rows), pattern, ratio, True)
    else:
        for several in stages(model, names):
            for module, found in zip(several, moments(model, several, subject.inputs), strict=True):
                sweep(module, found, pattern, ratio)
    return model


def rows(
    subject: Subject, given: str, methods: Sequence[str]
) -> Iterator[tuple[str, nn.Module, float, int]]:
    """Each method with its model, the processor's seconds and the number of zeros."""
    pattern = pattern_of(given if ":" in given else "unstructured")
    ratio = pattern.share or float(given)
    start = time.process_time()
    plan = graphprune.plan_sparsity(subject.model, ratio, pattern.name, data=subject.inputs)
    ours = plan.apply()
    took = time.process_time() - start
    assert plan.report is not None and plan.report.sparsity is not None
    names = [item.name.removesuffix(".weight") for item in plan.report.sparsity.layers]
    known = dict(subject.model.named_modules())
    names = [name for name in known if name in names]
    yield "graphprune", ours, took, zeros(ours, names)
    for method in methods:
        if method == "global" and pattern.of:
            continue
        if method.startswith("graphprune ") and pattern.of:
            continue
        start = time.process_time()
        if method.startswith("graphprune "):
            made = graphprune.sparsify(
                subject.model, ratio, pattern.name, data=subject.inputs, spread="uniform"
            )
        else:
            made = peer(method, subject, names, pattern, ratio)
        yield method, made, time.process_time() - start, zeros(made, names)


def off(model: nn.Module, dense: nn.Module, unseen: Tensor) -> float:
    """How far outputs are from the dense network's, relative to these."""
    error = total = 0.0
    with torch.no_grad():
        for part in torch.split(unseen, _BATCH):
            wanted, found = (getattr(y, "logits", y) for y in (dense(part), model(part)))
            error += float((found - wanted).square().sum())
            total += float(wanted.square().sum())
    return float((error / total) ** 0.5)


def zeros(model: nn.Module, names: Sequence[str]) -> int:
    return sum(int((matrix(model.get_submodule(name)) == 0).sum()) for name in names)


def subjects(arguments: argparse.Namespace) -> Iterator[tuple[str, Subject, Tensor]]:
    """Names, networks with what methods may see, and inputs that they do not see."""
    for kind in arguments.tasks:
        if kind in MODELS:
            found = pretrained(kind, arguments.split)
            unseen = found.inputs[arguments.samples :][:_UNSEEN]
            found.inputs = found.inputs[: arguments.samples]
            yield kind, found, unseen
            continue
        for seed in range(arguments.seeds):
            task = TASKS[kind](seed)
            held = task.test if arguments.split == "test" else task.validation
            for net in arguments.nets:
                model = trained(net, kind, task, seed, arguments.epochs)
                score = partial(accuracy, data=held)
                yield net, Subject(model, task.inputs, task.labels, score), held[0][:_UNSEEN]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    known = [*TASKS, *MODELS]
    parser.add_argument("tasks", nargs="+", choices=known, metavar="TASK", help=", ".join(known))
    parser.add_argument("--nets", nargs="*", default=NETS, metavar="NET")
    parser.add_argument("--ratios", nargs="*", default=["0.5", "0.8", "2:4"], metavar="RATIO|N:M")
    parser.add_argument(
        "--methods", nargs="*",
        default=["magnitude", "global", "wanda", "sparsegpt", "graphprune uniform"],
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=128, help="of pretrained networks' inputs")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--epochs", type=int, default=None, help="of training, for a quick look")
    arguments = parser.parse_args()
    print("| network | zeros | dense | method | score | off | seconds |")
    print("|---|---|---|---|---|---|---|")
    totals: dict[tuple[str, str], list[float]] = {}
    for name, subject, unseen in subjects(arguments):
        dense = subject.score(subject.model)
        for given in arguments.ratios:
            try:
                for method, made, took, number in rows(subject, given, arguments.methods):
                    score, far = subject.score(made), off(made, subject.model, unseen)
                    totals.setdefault((given, method), []).append(score)
                    zero, figures = f"{given} ({number:,})", (f"{score:.2f}", f"{far:.1%}")
                    shown = name, zero, f"{dense:.2f}", method, *figures, f"{took:.0f}"
                    print("|", " | ".join(shown), "|", flush=True)
            except graphprune.GraphPruneError as error:
                print(f"{name} {given}: {error}", file=sys.stderr)
    for (given, method), scores in totals.items():
        print(f"mean over {len(scores)}, {given}, {method}: {sum(scores) / len(scores):.2f}")


if __name__ == "__main__":
    main()
