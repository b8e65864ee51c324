"""mask: which numbers of each layer become zero."""

from __future__ import annotations

import torch

from graphprune.choice.select import Selection
from graphprune.core.errors import PassError
from graphprune.core.keep import Keep
from graphprune.core.within import Mask
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.sparsity.zeros import expected


class Choose(Pass):
    """Choose the numbers that become zero, layer by layer, and write them down as edits.

    - Requires: how many numbers of each layer become zero.
    - Ensures: one mask for each layer, with so many zeros, which lie as the pattern says; no index
      of a coupled group goes.
    """

    name = "mask"
    requires = ("deps", "zeros")
    ensures = ("choice",)

    def takes(self, work: Work, effort: str | float) -> float:
        """Choosing the zeros of every layer, and solving for the rest."""
        return expected(work.deps, work.asked.sparsity, work.statistics(), effort)[1]

    def run(self, work: Work) -> Outcome:
        """Later layers see what earlier ones give once they are sparse."""
        zeros, pattern = work.zeros, work.asked.sparsity.pattern
        work.pruned = zeros.prune()
        masks = [
            Mask(weight.name, kept.cpu().numpy().copy(), pattern.name)
            for weight, kept in work.pruned.kept.items()
        ]
        nothing = [Keep.of(group, None) for group in work.deps.groups]
        work.edits = [*nothing, *masks]
        work.choice = work.chooser.take(Selection({}, 0.0, 0.0, 1, "params"))
        return self.done(zeros.note)

    def after(self, work: Work) -> None:
        """Every mask has as many zeros as it should, and they lie as they may."""
        zeros, pattern = work.zeros, work.asked.sparsity.pattern
        masks = {edit.weight: edit.kept for edit in work.edits if isinstance(edit, Mask)}
        for layer in zeros.found.layers:
            kept = torch.as_tensor(masks[layer.weight.name])
            if int((~kept).sum()) != zeros.gone[layer.weight] * pattern.cells:
                raise PassError(f"{layer.weight.name}: another number of zeros than was decided")
            if not pattern.holds(layer.view.rows(kept.float()).bool()):
                raise PassError(f"{layer.weight.name}: zeros do not lie as {pattern.name} says")
