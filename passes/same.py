"""same: the smaller model computes what the given one computes."""

from __future__ import annotations

from graphprune.core.errors import VerifyError
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.statistics.constants import BACKWARD_FACTOR
from graphprune.statistics.estimate import seconds
from graphprune.statistics.samples import captured

_RUNS = 12  # of the captured batch, those in double precision counted twice


class Same(Pass):
    """Hold the smaller model against the given one: its own weights, its own inputs.

    Both run in evaluation, on the example inputs and on another number of samples. Where every
    number that was stored is still stored as it was, they are equal to rounding in double
    precision; where some were folded into others, to the rounding of those. In training mode the
    difference is measured: norms see the batch there, to which constants are none.

    - Requires: the smaller model.
    - Ensures: equal results, or a `VerifyError` that names the largest difference; the difference
      alone where something is assumed. What is assumed of data must be true of all of them.
    """

    name = "same"
    requires = ("choice", "lowered")
    makes = True

    def takes(self, work: Work, effort: str | float) -> float:
        """Runs of both models on two batches, in double precision, and in training mode."""
        if not work.asked.verify:
            return 0.0
        return _RUNS * seconds(work.deps, captured(work.deps), 1) / BACKWARD_FACTOR

    def run(self, work: Work) -> Outcome:
        """Run both."""
        if not work.asked.verify:
            return self.unchanged("off")
        try:
            gap = work.opened.apart(work.lowered, work.asked.seed)
        except VerifyError as error:
            if not work.assumed:
                raise
            gap = error.difference  # of inputs for which the assumption does not hold
        if gap is None:
            return self.unchanged("too large to be run as a whole")
        self._held_to_data(work)
        work.gap = gap
        work.training_gap = work.opened.apart_in_training(work.lowered)
        note = f"largest relative difference {gap:.1e}"
        if work.training_gap is not None:
            note += f", in training mode {work.training_gap:.1e}"
        return self.unchanged(note)

    @staticmethod
    def _held_to_data(work: Work) -> None:
        """Run both on all of the data, where what is assumed was seen in the first of them."""
        if not work.assumed or work.asked.assume != "data":
            return
        for batch in (*work.batches, *work.unseen):
            try:
                work.opened.apart_on(work.lowered, batch, work.asked.seed)
            except VerifyError as error:
                raise VerifyError(
                    f'what assume="data" takes for granted is not true of all of data=: '
                    f"{error}; leave assume= out",
                    error.layer,
                    error.difference,
                ) from error
