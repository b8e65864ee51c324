"""Compacting: does all that was masked beforehand go, and do the outputs stay?

For each model 30 % of the indices of every coupled group are set to zero, as
`torch.nn.utils.prune.ln_structured` chooses them (the smallest norms of the group's first weight),
in every weight that shares them; then, in a copy as it was, gains and offsets of 30 % of the
channels of every batch norm. The smaller model is analysed again: what could still go at no cost is
left, and what was masked and is not left is gone, under whatever name its layer now has. The table
says besides by how much the outputs differ, what became of the class, and how long it took. Groups
along which something averages (a LayerNorm, a softmax) are left out: without a zero, a mean is
another.

With `--slim`, small networks are slimmed while they train (`tools/slimmed.py`), and the table says
what `compact` and `shrink` at the same size lose on held-out images.

    python tools/bench_compact.py torchvision:resnet18 timm:mobilenetv3_small_100
    python tools/bench_compact.py torchvision:mobilenet_v2 --double
    python tools/bench_compact.py --slim
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from measure import Row, look_trained
from slimmed import STEPS, slimmed_lines
from torch import nn
from zoo import build, names_of

from graphprune.compacting import compacted
from graphprune.core.axes import atoms
from graphprune.core.indices import holdings
from graphprune.frontends.opening import open_model
from graphprune.frontends.torch.inputs import as_inputs
from graphprune.importance.free import costless, free
from graphprune.passes.couple import couple

_SHARE = 0.3


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", help="sets and names of models")
    parser.add_argument("--mask", nargs="+", default=["groups", "norms"])
    parser.add_argument("--double", action="store_true", help="in double precision")
    parser.add_argument(
        "--slim", nargs="*", choices=STEPS, metavar="DATA",
        help=f"the slimmed networks as well, on {' or '.join(STEPS)} (all)",
    )  # fmt: skip
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
    if rows:
        print(*lines(rows), sep="\n")
    if options.slim is not None:
        for line in slimmed_lines(options.slim or STEPS):
            print(line, flush=True)
    return int(any("error" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
