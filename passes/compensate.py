"""compensate: let the weights that stay make up for what is gone."""

from __future__ import annotations

from graphprune.core.errors import PassError
from graphprune.importance.free import missed
from graphprune.pipeline import Outcome, Pass, Work


class Compensate(Pass):
    """Solve for the weights that stay, so that layers compute what they did before.

    - Requires: the smaller model.
    - Ensures: new weights have the shapes of the narrowed ones; what could not be solved for is
      named with the reason.
    """

    name = "compensate"
    requires = ("choice", "lowered")
    ensures = ("lowered",)
    makes = True

    def run(self, work: Work) -> Outcome:
        """Solve by least squares, then descend where time allows."""
        keep = work.selection.keep
        if keep and not missed(work.free, keep):
            return self.unchanged("what goes changes nothing, and nothing has to make up for it")
        statistics = work.statistics()
        work.solved = statistics.solve(work.cuts, work.free)
        if work.solved is None or not work.solved.values:
            return self.unchanged(statistics.note)
        work.lowered = work.program.write(work.expressed, work.lowered, work.solved.values)
        return self.done(statistics.note)

    def reads(self, work: Work) -> bool:
        """Unless compensation is off."""
        return work.statistics().wanted

    def takes(self, work: Work, effort: str | float) -> float:
        """The refit and the descent."""
        found = work.statistics().forecast(effort)
        return 0.0 if found is None else found.solving + found.polishing

    def after(self, work: Work) -> None:
        """Every new weight has the shape that the narrowed graph gives it."""
        for value, tensor in work.solved.values.items() if work.solved else ():
            kept = work.cuts.weights.get(value, [None] * len(value.shape))
            wanted = tuple(
                size if indices is None else len(indices)
                for size, indices in zip(value.shape, kept, strict=True)
            )
            if tuple(tensor.shape) != wanted:
                raise PassError(f"{value.name} was solved as {tuple(tensor.shape)}, not {wanted}")
