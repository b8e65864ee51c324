"""The report of a plan: its numbers, as far as they are known."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping
from math import prod

import numpy as np
import torch

from graphprune.core.axes import atoms
from graphprune.core.graph import Value
from graphprune.core.indices import kept_indices
from graphprune.core.within import Mask
from graphprune.costs.registry import MEASURED, cost_of
from graphprune.engine.tensors import cut_tensor
from graphprune.lowrank.ranks import added, ranked, ranks_of
from graphprune.passes.couple import couple
from graphprune.pipeline import Work
from graphprune.report.report import Report
from graphprune.report.rows import (
    GroupRow,
    LayerRow,
    LowRank,
    RankRow,
    Sparse,
    WidthRow,
    lock_reasons,
)

_LOOKED_AT = 1 << 24  # bytes that are compressed to see how small all become
_POINTS = 100  # of a curve in a report


def _curves(work: Work) -> list[list[float]]:
    """Sorted scores of every group, thinned out; empty ones where there are none."""
    if not work.has("scores"):
        return [[] for _ in work.deps.groups]
    found = [np.sort(scores) for scores in work.scores]
    at = (np.linspace(0, len(x) - 1, min(len(x), _POINTS)).round().astype(int) for x in found)
    return [[float(f"{y:.4g}") for y in x[i]] for x, i in zip(found, at, strict=True)]


def _widths(work: Work) -> Iterator[WidthRow]:
    """The outputs of every weight of at least two dimensions."""
    deps = work.deps
    place = {group.axis: group.id for group in deps.groups}
    for value in deps.source.parameters():
        if len(value.shape) < 2:
            continue
        dim = deps.dims[value][0]
        held = [place[axis] for axis in atoms(dim) if axis in place]
        kept = kept_indices(dim, work.selection.keep)
        left = value.shape[0] if kept is None else len(kept)
        name = value.name.removesuffix(".weight")
        yield WidthRow(name, value.shape[0], left, held[0] if held else None)


def reported(work: Work) -> Report:
    """The report of some work, before or after the smaller model is made."""
    deps, of = work.deps, work.selection.of
    full, kept = deps.sizes(), deps.counts(work.selection.keep)
    whole_still = {} if work.factors is None else work.factors.whole
    edits = ranks_of(work.edits)
    ranks = ranked(deps, {name: edits[name] for name in edits if name not in whole_still})

    asked = {of, *work.asked.request.asked()}
    names = ({"params", "macs", of} | (asked & {"memory"})) - {MEASURED}
    costs = {name: cost_of(deps, name) for name in names}

    def after(name: str) -> float:
        return costs[name](kept) + added(deps, kept, ranks, name)

    whole = (costs["params"](full), costs["macs"](full))
    if work.opened is not work.program:  # passes made it smaller before anything was removed
        before = couple(work.opened.graph)
        sizes = before.sizes()
        whole = (cost_of(before, "params")(sizes), cost_of(before, "macs")(sizes))
    batch = max(work.program.batch(), 1)
    achieved = work.selection.achieved
    if of != MEASURED:  # which only a measurement tells
        before_all = costs[of](full)
        achieved = 1 - after(of) / before_all if before_all else 0.0
    memory = costs.get("memory")
    statistics = work.statistics()
    out = Report(
        model=work.program.name,
        of=of,
        asked=work.selection.asked,
        achieved=achieved,
        params=(round(whole[0]), round(after("params"))),
        macs=(round(whole[1] / batch), round(after("macs") / batch)),
        memory=None if memory is None else (round(memory(full)), round(memory(kept))),
        agreement=work.agreement,
        latency=work.latency,
        predicted=work.predicted,
        groups=[
            GroupRow(
                group.name,
                group.size,
                int(count),
                len(group.members),
                work.reasons.get(group.name, {}),
                curve,
            )
            for group, count, curve in zip(deps.groups, kept, _curves(work), strict=True)
        ],
        layers=list(_widths(work)),
        call=work.asked.call,
        locks=lock_reasons(deps),
        unknown=deps.unknown,
        compensation=statistics.note,
        left={**work.left, **statistics.left},
        passes=list(work.rows),
        seconds=work.seconds,
        warnings=work.program.warnings,
        assumed=work.program.assumed,
    )
    out.sparsity = zeros_of(work)
    if ranks:
        out.ranks = LowRank(
            [
                RankRow(offer.weight.name, view.outputs, view.columns, rank)
                for offer, rank in ranks.items()
                for view in (offer.layer.view,)
            ],
            {**(work.ranks.left if work.has("ranks") else {}), **whole_still},
            work.program.is_file,
        )
    if work.factors is not None:
        out.left = {**out.left, **work.factors.left}
    if work.pruned is not None:
        out.left = {**out.left, **work.pruned.left}
    if work.has("lowered"):
        out.verification = work.verification
        out.bytes = work.opened.weighed(work.lowered)
        if work.assumed:
            out.warnings = [*out.warnings, work.assumed]
        out.gap, out.training_gap = work.gap, work.training_gap
        if work.reasons or work.gap is not None:
            out.zeros = _zeros(work)
        out.replaced = dict(work.lowered.replaced)
        out.edits = dict(work.lowered.edits)
        out.folded = list(work.lowered.folded)
        if not work.program.is_file:
            out.kept_class = "" not in out.replaced
    return out


def _zeros(work: Work) -> dict[str, tuple[int, int]]:
    """For each matrix or kernel that is left with zeros, how many, and of how many numbers."""
    out: dict[str, tuple[int, int]] = {}
    for value in work.program.graph.parameters():
        if len(value.shape) > 1 and isinstance(value.tensor, torch.Tensor):
            rest = cut_tensor(value.tensor.detach(), work.cuts.weights.get(value, ()))
            live = int(rest.bool().count_nonzero())  # of floats of one byte too
            if live < rest.numel():
                out[value.name] = (rest.numel() - live, rest.numel())
    return out


def zeros_of(work: Work) -> Sparse | None:
    """What becomes zero, or None where no edit says so."""
    masks = [edit for edit in work.edits if isinstance(edit, Mask)]
    if not masks:
        return None
    rows = [LayerRow(m.weight, m.kept.size, int(m.kept.size - m.kept.sum())) for m in masks]
    known = work.has("zeros")
    out = Sparse(
        masks[0].pattern,
        work.zeros.note if known else "by the plan",
        rows,
        sum(prod(value.shape) for value in work.program.graph.parameters()),
        left=work.zeros.found.left if known else {},
    )
    if work.has("lowered") and work.pruned is not None:
        out.gzip = _compressed(work.pruned.values, work.pruned.kept)
    return out


def _compressed(
    values: Mapping[Value, torch.Tensor], masks: Mapping[Value, torch.Tensor]
) -> tuple[int, int]:
    """Bytes of the sparse weights once compressed, before and after, from a slice of each."""
    each = _LOOKED_AT // max(len(masks), 1)
    before = after = 0.0
    for value in masks:
        held, new = (x.detach().cpu().flatten() for x in (value.tensor, values[value]))
        number = min(len(held), max(each // held.element_size(), 1))
        share = len(held) / number
        before += share * len(gzip.compress(_raw(held[:number]), 1))
        after += share * len(gzip.compress(_raw(new[:number]), 1))
    return round(before), round(after)


def _raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a tensor."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()
