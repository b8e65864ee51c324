"""share_zeros: how many numbers of each layer become zero."""

from __future__ import annotations

from graphprune.core.errors import PassError
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.sparsity.zeros import expected, looked_at, settled_on, share_out


class ShareZeros(Pass):
    """Spread zeros over the layers.

    - Requires: coupled groups.
    - Ensures: for each layer that can become sparse, how many of its numbers become zero; their
      sum is the share that was asked for, to the number.
    """

    name = "share_zeros"
    requires = ("deps",)
    ensures = ("zeros",)

    def reads(self, work: Work) -> bool:
        """Unless magnitudes alone decide."""
        return looked_at(work.asked.sparsity, work.statistics()).wanted

    def takes(self, work: Work, effort: str | float) -> float:
        """Scores, or loss curves."""
        return expected(work.deps, work.asked.sparsity, work.statistics(), effort)[0]

    def run(self, work: Work) -> Outcome:
        """Spread by loss curves, by scores, or evenly."""
        asked = work.asked.sparsity
        work.zeros = settled_on(work.deps, asked, work.statistics(), work.asked.seed)
        share_out(work.zeros, asked.ratio)
        layers = work.zeros.found.layers
        return self.unchanged(f"{work.zeros.number:,} zeros in {len(layers)} layers")

    def after(self, work: Work) -> None:
        """The sum is the share that was asked for."""
        zeros, pattern = work.zeros, work.asked.sparsity.pattern
        whole = sum(layer.size for layer in zeros.found.layers)
        if abs(zeros.number - work.asked.sparsity.ratio * whole) > pattern.cells:
            raise PassError(f"{zeros.number} zeros are not the share of {whole} asked for")
