"""Compacting: does all that was masked beforehand go, and do the outputs stay?

For each model 30 % of the indices of every coupled group are set to zero, as
`torch.nn.utils.prune.ln_structured` chooses them (the smallest norms of the group's first weight),
in every weight that shares them; then, in a copy as it was, gains and offsets of 30 % of the
channels of every batch norm. The smaller model is analysed again: what could still go at no cost is
left, and what was masked and is not left is gone, under whatever name its layer now has. The table
says besides by how much the outputs differ, what became of the class, and how long it took. Groups
along which something averages (a LayerNorm, a softmax) are left out: without a zero, a mean is
another.

With `--slim`, two small networks are trained on handwritten digits and on Fashion-MNIST with an L1
penalty on the scales of their batch norms; small scales are set to zero, and the table says what
`compact` and `shrink` at the same size lose on held-out images.

    python tools/bench_compact.py torchvision:resnet18 timm:mobilenetv3_small_100
    python tools/bench_compact.py torchvision:mobilenet_v2 --double
    python tools/bench_compact.py --slim
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from accuracy.tasks import TASKS
from measure import Row, look_trained
from torch import nn
from zoo import build, names_of

import graphprune
from graphprune.compacting import compacted
from graphprune.core.axes import atoms
from graphprune.core.indices import holdings
from graphprune.frontends.opening import open_model
from graphprune.frontends.torch.inputs import as_inputs
from graphprune.importance.free import costless, free
from graphprune.passes.couple import couple
from graphprune.pipelines import COMPACT, FOLDING

_SHARE = 0.3
_PENALTY = 2e-3  # of the L1 norm of all scales, which leaves some of them near zero
_STEPS = 1500
_SMALL = 0.1  # of the largest scale of a norm: what is below is set to zero
_CHANNELS = [step for step in COMPACT if not isinstance(step, FOLDING)]


def mask_groups(model: nn.Module, deps: Any, share: float = _SHARE) -> dict[str, int]:
    """Zero the smallest indices of every group that nothing averages along, in all its weights.

    Args:
        model: The model that was analysed; modified.
        deps: The analysis.
        share: Share of the indices.

    Returns:
        How many indices were masked in each group, by name.
    """
    mixed = {a for effect in deps.effects.values() for dim in effect.mixes for a in atoms(dim)}
    masked: dict[str, int] = {}
    for group in deps.groups:
        number = int(group.size * share) // group.grain * group.grain
        if group.axis in mixed or not number:
            continue
        norms = np.zeros(group.size)
        member = group.members[0]
        rows = (
            member.weight.tensor.detach().movedim(member.dim, 0).flatten(1)
            if (member.weight.tensor.dim() > 1)
            else member.weight.tensor.detach().reshape(-1, 1)
        )
        for axis, positions, owners in holdings(deps.dims[member.weight][member.dim]):
            if axis is group.axis:
                np.add.at(norms, owners, rows.double().pow(2).sum(1).numpy()[positions])
        gone = np.argsort(norms, kind="stable")[:number]
        for held in group.members:
            if held.weight.kind != "parameter":
                continue
            for axis, positions, owners in holdings(deps.dims[held.weight][held.dim]):
                if axis is group.axis:
                    at = torch.as_tensor(positions[np.isin(owners, gone)])
                    held.weight.tensor.data.index_fill_(held.dim, at, 0.0)
        masked[group.name] = number
    return masked


def mask_norms(model: nn.Module, share: float = _SHARE) -> int:
    """Set gains and offsets of some channels of every batch norm to zero; how many."""
    number = 0
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            gone = module.weight.detach().abs().argsort()[: int(len(module.weight) * share)]
            module.weight.data[gone] = 0.0
            module.bias.data[gone] = 0.0
            number += len(gone)
    return number


def measured(name: str, kind: str, double: bool = False) -> Row:
    """A model masked in one of both ways, and compacted."""
    model, inputs = build(name)
    look_trained(model)
    if double:
        model.double()
    opened = open_model(model, as_inputs(inputs))
    deps = couple(opened.program.graph)
    masked: dict[str, int] = {}
    if kind == "groups":
        masked = mask_groups(model, deps)
    else:
        mask_norms(model)
    start = time.perf_counter()
    given = {} if inputs is None else {"example_inputs": inputs}
    plan = compacted(model, given)
    small = plan.apply()
    report = plan.report
    assert report is not None
    rest = couple(open_model(small, plan.inputs).program.graph)
    left = costless(rest, free(rest))
    gone = sum(row.size - row.kept for row in report.groups)
    return {
        "model": name, "mask": kind, "masked": sum(masked.values()),
        "gone": max(sum(masked.values()) - int(left.sum()), 0) if masked else gone,
        "free": int(left.sum()),
        "params": report.params, "gap": report.gap, "class": type(small) is type(model),
        "replaced": len(report.replaced), "seconds": time.perf_counter() - start,
        "missing": [g.name for g, n in zip(rest.groups, left, strict=True) if n],
        "left": dict(list(report.left.items())[:3]),
    }  # fmt: skip


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """The table."""
    yield "| model | mask | masked | gone | left | parameters | largest difference | class | s |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        if "error" in row:
            yield f"| {row['model']} | {row['mask']} | FAILED: {row['error']} | | | | | | |"
            continue
        share = (
            f"{row['gone']} ({row['gone'] / row['masked']:.0%})" if row["masked"] else row["gone"]
        )
        kept = "kept" if row["class"] and not row["replaced"] else f"{row['replaced']} generated"
        before, after = row["params"]
        yield (
            f"| {row['model']} | {row['mask']} | {row['masked'] or '-'} | {share} | "
            f"{row['free']} | "
            f"{after / before - 1:.1%} | {row['gap']:.1e} | {kept} | {row['seconds']:.1f} |"
        )


# --- slimmed networks -----------------------------------------------------------------------------


class Plain(nn.Module):
    """Three convolutions with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 24, 48, 48)
        self.layers = nn.Sequential(*(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(),
            )
            for a, b in pairwise(widths)
        ))  # fmt: skip
        self.head = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores of images."""
        out: torch.Tensor = self.head(self.layers(x).mean((2, 3)))
        return out


class Skips(nn.Module):
    """A stem and two residual blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
                nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32),
            )
            for _ in range(2)
        )  # fmt: skip
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores of images."""
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = torch.relu(x + block(x))
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


def slimmed(kind: type[nn.Module], data: str, steps: int = _STEPS) -> Row:
    """Train, zero small scales, compact, and shrink to the same size: top-1 of each."""
    task = TASKS[data](0)
    (images, labels), (unseen, truth) = task.train, task.test
    torch.manual_seed(0)
    model = kind()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        at = torch.randint(len(images), (128,), generator=draw)
        loss = nn.functional.cross_entropy(model(images[at]), labels[at])
        scales = sum(norm.weight.abs().sum() for norm in norms)
        optimizer.zero_grad()
        (loss + _PENALTY * scales).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval()
    with torch.no_grad():
        for norm in norms:
            norm.weight[norm.weight.abs() < _SMALL * norm.weight.abs().max()] = 0.0

    def top1(net: nn.Module) -> float:
        with torch.no_grad():
            return float((net(unseen).argmax(1) == truth).float().mean())

    plan = compacted(model, {"example_inputs": images[:2]})
    small = plan.apply()
    assert plan.report is not None
    before, after = plan.report.params
    row: Row = {
        "model": f"{kind.__name__} on {data}", "top1": top1(model), "compact": top1(small),
        "params": (before, after), "gap": plan.report.gap,
    }  # fmt: skip
    # A norm that is folded takes no channel along: what shrink is asked for is channels alone.
    channels = graphprune.plan(
        model, passes=_CHANNELS, example_inputs=images[:2], compensate=False
    ).report
    assert channels is not None
    if channels.achieved > 0:
        shrunk = graphprune.shrink(
            model, channels.achieved, example_inputs=images[:2], data=task.inputs, effort="fast"
        )
        row["shrink"] = top1(shrunk)
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", help="sets and names of models")
    parser.add_argument("--mask", nargs="+", default=["groups", "norms"])
    parser.add_argument("--double", action="store_true", help="in double precision")
    parser.add_argument("--slim", action="store_true", help="the slimmed networks as well")
    options = parser.parse_args()
    rows: list[Row] = []
    for name in names_of(options.models):
        for kind in options.mask:
            try:
                rows.append(measured(name, kind, options.double))
            except Exception as error:
                first = (str(error).splitlines() or [""])[0]
                told = f"{type(error).__name__}: {first}"[:200]
                rows.append({"model": name, "mask": kind, "error": told})
            print(
                *list(lines(rows[-1:]))[2:],
                rows[-1].get("missing"),
                rows[-1].get("left"),
                flush=True,
            )
    print(*lines(rows), sep="\n")
    for data in ("digits", "fashion") if options.slim else ():
        for kind in (Plain, Skips):
            print(slimmed(kind, data), flush=True)
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
