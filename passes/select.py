"""select: which indices stay, for an exact budget."""

from __future__ import annotations

import logging

from graphprune.choice.aim import meet
from graphprune.choice.constants import RATIO_TOLERANCE
from graphprune.core.edits import cut_by
from graphprune.core.errors import PassError
from graphprune.core.keep import Keep
from graphprune.pipeline import Outcome, Pass, Work

_log = logging.getLogger("graphprune")


class Select(Pass):
    """Choose the indices that stay, and write them down as edits.

    - Requires: scores.
    - Ensures: one edit for each group; every group keeps at least one index; the narrowed graph,
      and what the model's code can express of it.
    """

    name = "select"
    requires = ("deps", "scores")
    ensures = ("choice",)

    def run(self, work: Work) -> Outcome:
        """Meet the budget, by measuring where the cost is a latency."""
        request = work.asked.request
        if "latency" in request.asked():
            found = meet(work.chooser, request, work.scores, work.asked.inputs)
            work.choice, work.latency, work.predicted = found.choice, found.seconds, found.predicted
        else:
            work.choice = work.chooser.choose(request, work.scores)
        self._told(work)
        keep = work.selection.keep
        work.edits = [
            Keep.of(group, keep.get(group.axis), scores)
            for group, scores in zip(work.deps.groups, work.scores, strict=True)
        ]
        gone = int((work.deps.sizes() - work.deps.counts(keep)).sum())
        note = f"{gone} indices of {len(keep)} groups go"
        return self.done(note) if keep else self.unchanged("nothing goes")

    @staticmethod
    def _told(work: Work) -> None:
        """Say where whole indices, or widths of the caller's step, do not come near the ratio."""
        found, request = work.selection, work.asked.request
        if abs(found.achieved - found.asked) <= RATIO_TOLERANCE:
            return
        near = f"{found.achieved:.1%} of {found.of} is as near to the {found.asked:.1%} asked for"
        if request.step():
            near = f"round_to={request.step()}: {near} as multiples of it come"
        elif found.of != "latency":
            bound = ", within ratios and limits" if request.ratios or request.limits else ""
            near = f"{near} as whole indices come{bound}"
        else:
            return
        work.program.warnings.append(near)
        _log.warning("%s: %s", work.program.name, near)

    def after(self, work: Work) -> None:
        """The edits say what was chosen."""
        if cut_by(work.edits, work.deps).keys() != work.selection.keep.keys():
            raise PassError("the edits are not the choice")
