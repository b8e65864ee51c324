"""same: the smaller model computes what the given one computes."""

from __future__ import annotations

from graphprune.pipeline import Outcome, Pass, Work


class Same(Pass):
    """Hold the smaller model against the given one: its own weights, its own inputs.

    Both run in evaluation, on the example inputs and on another number of samples. Where every
    number that was stored is still stored as it was, they are equal to rounding in double
    precision; where some were folded into others, to the rounding of those.

    - Requires: the smaller model.
    - Ensures: equal results, or a `VerifyError` that names the largest difference.
    """

    name = "same"
    requires = ("choice", "lowered")
    makes = True

    def run(self, work: Work) -> Outcome:
        """Run both."""
        if not work.asked.verify:
            return self.unchanged("off")
        gap = work.opened.apart(work.lowered, work.asked.seed)
        if gap is None:
            return self.unchanged("too large to be run as a whole")
        work.gap = gap
        return self.unchanged(f"largest relative difference {gap:.1e}")
