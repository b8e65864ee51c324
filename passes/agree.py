"""agree: how far the smaller model answers as the original does, on inputs no step has seen.

Such inputs are held out of the caller's data before anything looks at it. Where there are no data,
or too few, they are made: random tokens, pictures of random shapes or noise, of another seed than
any that statistics are taken from.
"""

from __future__ import annotations

from graphprune.core.agreement import Agreement, compared
from graphprune.core.errors import GraphPruneError, first_line
from graphprune.core.groups import Dependencies
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.statistics.answers import scored
from graphprune.statistics.batches import UNSEEN
from graphprune.statistics.constants import BACKWARD_FACTOR
from graphprune.statistics.estimate import seconds
from graphprune.statistics.made.plain import kind, plain, plain_for_parts
from graphprune.statistics.samples import Samples, captured, recut
from graphprune.statistics.supplied import read

_MADE = 16  # inputs that are made, at most: to paint a picture takes as long as to look at it
_RUNS = 32  # of each model, at most: every one takes as many inputs as were captured
_BRIEF, _LONGEST = 2.0, 60.0  # estimated seconds that all runs should take, and one pair may
_HELD_OUT = "inputs held out of data"
_APART = 104729  # from the caller's seed to that of unseen inputs, which no other step draws


class Agree(Pass):
    """Run the smaller model beside the original on inputs that no step has seen.

    - Requires: the smaller model, compensated.
    - Ensures: nothing; the report has the agreement, or why there is none. With neither the check
      nor compensation nothing is asked about the outputs, and it is not measured.
    """

    name = "agree"
    requires = ("deps", "choice", "lowered")
    makes = True

    def takes(self, work: Work, effort: str | float) -> float:
        """Runs of both models."""
        return _number(work) * _each(work.deps) if _asked(work) else 0.0

    def run(self, work: Work) -> Outcome:
        """Compare what both return, unless nothing is asked about it."""
        work.agreement = None
        return self.measure(work) if _asked(work) else self.unchanged("off")

    def measure(self, work: Work) -> Outcome:
        """Compare what both return, whether or not anything is asked about it."""
        work.agreement = None
        try:
            found = self._measured(work)
        except Exception as error:  # the caller's code meets inputs that nobody has tried
            return self.unchanged(f"not measured: {first_line(error)}")
        if isinstance(found, str):
            return self.unchanged(f"not measured: {found}")
        work.agreement = found
        return self.unchanged(found.sentence())

    def _measured(self, work: Work) -> Agreement | str:
        deps, batch = work.deps, captured(work.deps)
        number = _number(work)
        if not number:
            return "a run of this model takes minutes"
        samples, source = self._unseen(work, number)
        if samples is None:
            return "no inputs can be made for a model captured in parts: pass data="
        chunks = list(recut(deps, samples, batch))[: max(number // batch, 1)]
        before, after = (
            work.program.answers(work.expressed, model, chunks) for model in (None, work.lowered)
        )
        numbers = compared(before, after, scored(deps))
        if numbers is None:
            return "no two results can be compared"
        kept, same, output = numbers
        return Agreement(kept, same, batch * len(chunks), source, source == _HELD_OUT, output)

    @staticmethod
    def _unseen(work: Work, number: int) -> tuple[Samples | None, str]:
        """Inputs, and what they are."""
        if work.unseen:
            given = [batch.kwargs or batch.args for batch in work.unseen]
            try:
                return read(work.program, work.deps, given, number), _HELD_OUT
            except GraphPruneError:  # too few to fill what was captured
                pass
        seed = work.asked.seed + _APART
        if work.program.original is not None:
            return plain_for_parts(work.program, work.deps, number, seed), "made inputs"
        likes = work.program.flat_inputs()
        return plain(work.deps, likes, number, seed), kind(likes)


def _asked(work: Work) -> bool:
    """Whether anything is asked about what the smaller model returns."""
    return work.asked.verify or work.asked.options.compensate is not False


def _each(deps: Dependencies) -> float:
    """Estimated seconds that an input takes both models."""
    return 2 * seconds(deps, 1, 1) / BACKWARD_FACTOR


def _number(work: Work) -> int:
    """How many inputs are compared; 0 where a run takes too long."""
    deps, batch = work.deps, captured(work.deps)
    each = _each(deps)
    if each * batch > _LONGEST:
        return 0
    most = UNSEEN if work.unseen else max(_MADE, batch)
    return min(most, _RUNS * batch, max(int(_BRIEF / each) // batch, 1) * batch)
