"""assume: channels that are constant as far as statistics or data go are taken to be so.

A ReLU is dead where it reads a batch norm whose offset lies further below zero than its gain
reaches, or where no sample of the data was above zero; likewise whatever else activations make of
such channels. Only where the caller asks for it: other inputs may wake them.
"""

from __future__ import annotations

import numpy as np

from graphprune.core.errors import PassError
from graphprune.core.graph import Value
from graphprune.core.groups import Dependencies
from graphprune.importance.freedom import Free
from graphprune.passes.constants import fold_constants
from graphprune.passes.couple import coupled
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.statistics.bounds import Bounds, by_data, by_statistics
from graphprune.statistics.samples import captured, recut
from graphprune.statistics.supplied import read

_MOST = 1024  # samples that are looked at
ASSUMED = {
    "statistics": "what batch norms make stays within six times their gain",
    "data": "no input takes a channel further than those in data=",
}
"""What can be assumed, in words."""


class Assume(Pass):
    """Fold channels that are constant if an assumption of the caller's holds.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: the same results for inputs of which the assumption is true; a warning names it and
      counts the channels. Without one nothing changes.
    """

    name = "assume"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Fold what the assumption makes free."""
        assumed = work.asked.assume
        if not assumed:
            return self.unchanged("nothing is assumed")
        deps = coupled(work)
        free = Free(deps, bounds=_bounds(work, deps))
        known, before = free.constant(), work.freedom(deps).constant()
        gains = {
            axis: mask & ~before.get(axis, np.zeros_like(mask)) for axis, mask in known.items()
        }
        number = int(sum(mask.sum() for mask in gains.values()))
        if not number or not fold_constants(work, deps, free, gains):
            return self.unchanged("no channel is constant by what is assumed")
        told = f"{number} channels go because it is assumed that {ASSUMED[assumed]}"
        work.assumed = told
        return self.done(told)


def _bounds(work: Work, deps: Dependencies) -> dict[Value, Bounds]:
    """Between which numbers channels are taken to lie."""
    if work.asked.assume == "statistics":
        return by_statistics(deps)
    if not work.batches:
        raise PassError('assume="data" needs inputs: pass data=')
    given = [batch.kwargs or batch.args for batch in work.batches]
    samples = read(work.program, deps, given, _MOST)
    return by_data(deps, list(recut(deps, samples, captured(deps))))


__all__ = ["ASSUMED", "Assume"]
