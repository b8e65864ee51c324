"""The report of a plan: its numbers, as far as they are known."""

from __future__ import annotations

from graphprune.costs.registry import cost_of
from graphprune.pipeline import Work
from graphprune.report.report import GroupRow, Report, lock_reasons


def reported(work: Work) -> Report:
    """The report of some work, before or after the smaller model is made."""
    deps, of = work.deps, work.selection.of
    full, kept = deps.sizes(), deps.counts(work.selection.keep)
    params, macs = cost_of(deps, "params"), cost_of(deps, "macs")
    batch = max(work.program.batch(), 1)
    achieved = work.selection.achieved
    if of != "latency":  # which only a measurement tells
        spent = cost_of(deps, of)
        achieved = 1 - spent(kept) / spent(full) if spent(full) else 0.0
    asked = {of, *work.asked.request.asked()}
    others = [cost_of(deps, name) for name in sorted(asked & {"memory"})]
    statistics = work.statistics()
    out = Report(
        model=work.program.name,
        of=of,
        asked=work.selection.asked,
        achieved=achieved,
        params=(round(params(full)), round(params(kept))),
        macs=(round(macs(full) / batch), round(macs(kept) / batch)),
        memory=next(((round(c(full)), round(c(kept))) for c in others), None),
        latency=work.latency,
        predicted=work.predicted,
        groups=[
            GroupRow(group.name, group.size, int(count), len(group.members))
            for group, count in zip(deps.groups, kept, strict=True)
        ],
        locks=lock_reasons(deps),
        unknown=deps.unknown,
        compensation=statistics.note,
        left=statistics.left,
        passes=list(work.rows),
        seconds=work.seconds,
        warnings=work.program.warnings,
        assumed=work.program.assumed,
    )
    if work.has("lowered"):
        out.verification = work.verification
        out.bytes = work.program.weighed(work.lowered)
        out.replaced = dict(work.lowered.replaced)
        out.edits = dict(work.lowered.edits)
        out.folded = list(work.lowered.folded)
        if not work.program.is_file:
            out.kept_class = "" not in out.replaced
    return out
