"""lower: the smaller model, its weights cut."""

from __future__ import annotations

from graphprune.pipeline import Outcome, Pass, Work


class Lower(Pass):
    """Make the smaller model, of the caller's own class wherever its code can express the choice.

    - Requires: the choice.
    - Ensures: the smaller model, not yet checked and not compensated.
    """

    name = "lower"
    requires = ("choice",)
    ensures = ("lowered",)
    makes = True

    def run(self, work: Work) -> Outcome:
        """Cut the weights, set the sizes."""
        work.lowered = work.program.lower(work.expressed)
        number = len(work.cuts.weights)
        generated = len(work.lowered.replaced)
        note = f"{number} weights cut" + (f", {generated} parts generated" if generated else "")
        return self.done(note) if number else self.unchanged("no weight is cut")
