"""choose_ranks: how many channels there are between two layers, for an exact budget."""

from __future__ import annotations

from dataclasses import replace

from graphprune.choice.choose import Chooser
from graphprune.choice.select import fixed_only, select
from graphprune.core.errors import OptionError, PassError
from graphprune.core.keep import Keep
from graphprune.core.within import Rank
from graphprune.pipeline import Outcome, Pass, Work


class ChooseRanks(Pass):
    """Choose the layers that become two, and their ranks, and write them down as edits.

    - Requires: the layers that can become two, with loss curves; the scores of coupled groups,
      where widths are chosen within the same budget.
    - Ensures: a rank for each layer that becomes two, at which the two cost less than the one; one
      edit for each coupled group, of which indices go only where widths are chosen too; the budget
      is met as `select` meets it.
    """

    name = "choose_ranks"
    requires = ("deps", "ranks")
    ensures = ("choice",)

    def run(self, work: Work) -> Outcome:
        """Meet the budget."""
        ranks, request = work.ranks, work.asked.request
        if request.threshold:
            name = work.asked.importance
            raise OptionError(f"importance={name!r} chooses no ranks: leave it out")
        request = replace(
            request,
            costs={name: ranks.cost(name) for name in request.asked()},
            allocation="loss" if request.allocation == "auto" else request.allocation,
        )
        if work.has("scores"):
            chooser = Chooser(work.program, work.deps, lambda: work.free, ranks.deps)
            choice = chooser.choose(request, ranks.scores)
            found = choice.selection
        else:
            find = select if request.asked() else fixed_only
            found = find(ranks.deps, ranks.scores, request)
            choice = work.chooser.take(replace(found, keep={}))
        groups = {group.axis for group in work.deps.groups}
        keep = {axis: kept for axis, kept in found.keep.items() if axis in groups}
        chosen = ranks.ranks(ranks.deps.counts(found.keep))
        work.choice = replace(choice, selection=replace(found, keep=keep))
        work.edits = [
            *(Keep.of(group, keep.get(group.axis)) for group in work.deps.groups),
            *(Rank(weight.name, weight.shape, rank) for weight, rank in chosen.items()),
        ]
        gone = int((work.deps.sizes() - work.deps.counts(keep)).sum())
        note = f"{len(chosen)} of {len(ranks.offers)} layers become two"
        note += f", {gone} indices of {len(keep)} groups go" if keep else ""
        return self.done(note) if chosen or keep else self.unchanged("nothing goes")

    def after(self, work: Work) -> None:
        """Two layers cost less than the one."""
        saving = {offer.weight.name: offer.saving for offer in work.ranks.offers}
        for edit in work.edits:
            if isinstance(edit, Rank) and edit.rank > saving[edit.weight]:
                raise PassError(f"{edit.weight}: two layers of rank {edit.rank} save nothing")
