"""Slimmed networks: trained with an L1 penalty on the scales of their batch norms.

Network Slimming (Liu et al., ICCV 2017) with a proximal step (`ScaleL1`): scales that it has made
small are set to zero, gain alone, so that a channel becomes its offset. Nothing is tuned after
that. The penalty presses the scales of `_TARGET` alone: under one on all of them a norm's scales
shrink together, as the next norm takes back what they have in common.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import pairwise

import torch
from accuracy.tasks import TASKS, Task
from measure import Row
from torch import nn

import graphprune
from graphprune.compacting import compacted
from graphprune.pipelines import COMPACT, FOLDING
from graphprune.training import ScaleL1

_STRENGTH, _LOOK = 1.0, 20  # of the penalty at first; steps between two growths
_TARGET = 0.75  # of the parameters, which is about half of the channels
STEPS = {"digits": 800, "fashion": 400}
_BATCH, _RATE = 128, 3e-3
_SMALL = 0.01  # of the largest scale of a norm: what is below is set to zero
_CHANNELS = [step for step in COMPACT if not isinstance(step, FOLDING)]


def block(inside: int, outside: int, size: int = 3, groups: int = 1) -> nn.Sequential:
    """A convolution and its batch norm."""
    conv = nn.Conv2d(inside, outside, size, padding=size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


class Plain(nn.Module):
    """Three convolutions with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 24, 48, 48)
        self.layers = nn.Sequential(*(
            nn.Sequential(*block(a, b), nn.ReLU()) for a, b in pairwise(widths)
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
        self.stem = block(1, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(*block(32, 32), nn.ReLU(), *block(32, 32)) for _ in range(2)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores of images."""
        x = torch.relu(self.stem(x))
        for inner in self.blocks:
            x = torch.relu(x + inner(x))
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


class Excited(nn.Module):
    """An inverted bottleneck with squeeze and excitation, as in MobileNetV3."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.widen, self.depth = block(width, inner, 1), block(inner, inner, 3, inner)
        self.squeeze, self.excite = nn.Conv2d(inner, 8, 1), nn.Conv2d(8, inner, 1)
        self.thin = block(inner, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's result, added to what it reads."""
        act = nn.functional.hardswish
        y = act(self.depth(act(self.widen(x))))
        gate = torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))
        out: torch.Tensor = x + self.thin(y * nn.functional.hardsigmoid(self.excite(gate)))
        return out


class Mobile(nn.Module):
    """A stem and three inverted bottlenecks with squeeze and excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(1, 24)
        self.blocks = nn.Sequential(*(Excited(24, 72) for _ in range(3)))
        self.head = nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores of images."""
        x = self.blocks(nn.functional.hardswish(self.stem(x)))
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


NETS: tuple[type[nn.Module], ...] = (Plain, Skips, Mobile)


def trained(model: nn.Module, task: Task, steps: int) -> None:
    """Train a network, its scales under the penalty, and set small scales to zero."""
    images, labels = task.train
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    optimizer = torch.optim.Adam(model.parameters(), _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    penalty = ScaleL1(
        model, _STRENGTH, target=_TARGET, every=_LOOK, example_inputs=images[:2]
    )  # fmt: skip
    penalty.attach(optimizer)
    draw = torch.Generator().manual_seed(0)
    for _ in range(steps):
        at = torch.randint(len(images), (_BATCH,), generator=draw)
        loss = nn.functional.cross_entropy(model(task.noisy(images[at], draw)), labels[at])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        for norm in norms:
            norm.weight[norm.weight.abs() < _SMALL * norm.weight.abs().max()] = 0.0


def slimmed(kind: type[nn.Module], data: str) -> Row:
    """Train, zero small scales, compact, and shrink to the same size: top-1 of each."""
    task = TASKS[data](0)
    unseen, truth = task.test
    torch.manual_seed(0)
    model = kind()
    trained(model, task, STEPS[data])

    def top1(net: nn.Module) -> float:
        with torch.no_grad():
            return 100 * float((net(unseen).argmax(1) == truth).float().mean())

    examples = task.train[0][:2]
    plan = compacted(model, {"example_inputs": examples})
    small = plan.apply()
    assert plan.report is not None
    gains = torch.cat([m.weight for m in model.modules() if isinstance(m, nn.BatchNorm2d)])
    row: Row = {
        "channels": len(gains), "dead": int((gains == 0).sum()),
        "model": kind.__name__, "data": data, "top1": top1(model), "compact": top1(small),
        "params": plan.report.params, "gap": plan.report.gap, "shrink": float("nan"),
    }  # fmt: skip
    # A norm that is folded takes no channel along: what shrink is asked for is channels alone.
    channels = graphprune.plan(
        model, passes=_CHANNELS, example_inputs=examples, compensate=False
    ).report
    assert channels is not None
    if channels.achieved > 0:
        shrunk = graphprune.shrink(
            model, channels.achieved, example_inputs=examples, data=task.inputs, effort="fast"
        )
        row["shrink"], row["ratio"] = top1(shrunk), channels.achieved
    return row


def slimmed_lines(sets: Collection[str]) -> Iterator[str]:
    """The table of all networks on data sets, line by line."""
    yield (
        "| network, data | scales, zero | top-1 | parameters | compact | largest difference | "
        "asked | shrink |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for data in sets:
        for kind in NETS:
            row = slimmed(kind, data)
            before, after = row["params"]
            yield (
                f"| {row['model']}, {data} | {row['channels']}, {row['dead']} | "
                f"{row['top1']:.2f} | {after / before - 1:.1%} | {row['compact']:.2f} | "
                f"{row['gap']:.1e} | {row.get('ratio', 0):.3f} | {row['shrink']:.2f} |"
            )
