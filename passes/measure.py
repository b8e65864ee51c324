"""measure: how much faster the smaller model runs, where that takes little time to tell."""

from __future__ import annotations

from graphprune.pipeline import Outcome, Pass, Work


class Measure(Pass):
    """Time the smaller model beside the original.

    Files are timed in ONNX Runtime as they would be deployed; modules only where their latency
    was asked for.

    - Requires: the smaller model.
    - Ensures: nothing; the report has the times if there are any.
    """

    name = "measure"
    requires = ("choice", "lowered")
    makes = True

    def run(self, work: Work) -> Outcome:
        """Run both in turns."""
        if not work.asked.verify or work.latency is not None:
            return self.unchanged()
        work.latency = work.program.speed(work.expressed, work.lowered, work.asked.seed)
        if work.latency is None:
            return self.unchanged("not timed")
        slow, fast = work.latency
        return self.unchanged(f"{slow / fast:.2f} x as fast")
