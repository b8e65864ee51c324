"""choose: which indices stay, such that the model's own code can run with the new widths.

The code is run with the chosen widths. Where it fails because it uses one width in place of another
(`x.view(n, self.width)`), the two are tied, and the choice is made again if the budget allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import numpy as np

from graphprune.choice.constants import LARGE_WEIGHT, LEARNING_ROUNDS
from graphprune.choice.request import Request
from graphprune.choice.select import Selection, fixed_only, select
from graphprune.choice.threshold import threshold
from graphprune.choice.tie import learn, preferences, repeated
from graphprune.core.axes import Axis, atoms
from graphprune.core.cuts import Cuts, narrow
from graphprune.core.errors import BudgetError
from graphprune.core.groups import Counts, Dependencies
from graphprune.core.program import Expressed, Program
from graphprune.core.relations import Relation, Ties
from graphprune.importance import Scores
from graphprune.importance.free import costless
from graphprune.importance.freedom import Masks

_NAMED = 2  # most weights that an error names


@dataclass(frozen=True)
class Choice:
    """A choice of indices, and what the model's code can express of it.

    Attributes:
        selection: The indices that stay, and the ratio reached.
        cuts: The narrowed graph.
        expressed: What the code can express.
    """

    selection: Selection
    cuts: Cuts
    expressed: Expressed


class Chooser:
    """Makes choices for one captured model.

    Args:
        program: The captured model.
        deps: The analysis.
        free: Says which indices can go at no cost.
        within: The analysis with more groups than the model's own, behind these, of which indices
            go within the same budget.
    """

    def __init__(
        self,
        program: Program,
        deps: Dependencies,
        free: Callable[[], Masks],
        within: Dependencies | None = None,
    ) -> None:
        self.program = program
        self.deps = deps
        self._free = free
        self._within = within or deps
        self._hints: Expressed | None = None

    @cached_property
    def _costless(self) -> Counts:
        """How many indices of each group can go at no cost."""
        own = costless(self.deps, self._free())
        return np.append(own, np.zeros(len(self._within.groups) - len(own)))

    def take(self, selection: Selection) -> Choice:
        """Narrow the graph to a selection, and see what the code can express of it."""
        own = {group.axis for group in self.deps.groups}
        cuts = narrow(self.deps, {a: kept for a, kept in selection.keep.items() if a in own})
        return Choice(selection, cuts, self.program.express(cuts, self._hints))

    def choose(self, request: Request, scores: Sequence[Scores]) -> Choice:
        """Choose the indices that stay.

        Args:
            request: What is asked for.
            scores: One score for each index of each group; the lowest go first.

        Raises:
            BudgetError: The ratio cannot be reached, or is too small to remove anything.
        """
        best = self._best(request, scores)
        if best.expressed.wrong and request.allocation == "loss":
            # Equal fractions leave more lengths equal, which the caller's code may need.
            even = self._best(replace(request, allocation="auto"), scores)
            best = even if even.expressed.wrong < best.expressed.wrong else best
        return best

    def _best(self, request: Request, scores: Sequence[Scores]) -> Choice:
        """The best of a few rounds, each with what the code taught in the one before."""
        learned: list[Relation] = []
        wished: list[Relation] = []
        best: Choice | None = None
        for _ in range(LEARNING_ROUNDS):
            ties: list[Ties] = []
            if request.allocation in ("auto", "loss"):
                ties = preferences(self.deps, learned, self.program.alike, wished)
            found = self.take(self._select(request, scores, ties))
            best = _better(found, best)
            self._hints = found.expressed
            if not ties or not self._learn(found, learned, wished):
                break
        assert best is not None and self._hints is not None
        guessed, self._hints = self._hints.guessed, None
        if best.expressed.offenders and guessed is not None:
            best = _better(self.take(best.selection), best)  # with and without guesses once more
        return best

    def _select(self, request: Request, scores: Sequence[Scores], ties: list[Ties]) -> Selection:
        """Select; an error also tells what could not be captured, and what is locked."""
        work = threshold if request.threshold else select if request.asked() else fixed_only
        try:
            if work is select:
                return select(self._within, scores, request, ties, self._costless)
            return work(self._within, scores, request, ties)
        except BudgetError as error:
            text = "; ".join([str(error), *_whole_weights(self.deps)])
            text = "\n".join([text, *self.program.warnings])
            raise BudgetError(text, closest=error.closest) from None

    def _learn(self, found: Choice, learned: list[Relation], wished: list[Relation]) -> bool:
        """Add the relations that the narrowed code or its config taught; whether any was new.

        Where a module keeps failing on relations that are known, the widths inside it stay.
        """
        expressed = found.expressed
        counts = {axis: len(kept) for axis, kept in found.selection.keep.items()}
        taught = learn(self.deps, counts, expressed.mismatches)
        if all(relation in learned for relation in taught):
            inside = (axis for path in expressed.offenders for axis in self._inside(path))
            taught = [((axis,), ()) for axis in inside]
        if not self.program.alike:  # whose blocks are tied as a whole
            taught = [*taught, *repeated(self.deps, taught)]
        wishes = learn(self.deps, counts, expressed.wishes)
        new = [relation for relation in taught if relation not in learned]
        wish = [relation for relation in wishes if relation not in wished]
        learned.extend(dict.fromkeys(new))
        wished.extend(dict.fromkeys(wish))
        return bool(new or wish)

    def _inside(self, path: str) -> Iterator[Axis]:
        """Axes that occur in the weights of one module alone; none if it is the whole model."""
        for group in self.deps.groups:
            names = (member.weight.name for member in group.members)
            if path and all(name.startswith(f"{path}.") for name in names):
                yield group.axis


def _better(found: Choice, best: Choice | None) -> Choice:
    """The choice of which the code can express more; if equal, the earlier one."""
    if best is None or found.expressed.wrong < best.expressed.wrong:
        return found
    return best


def _whole_weights(deps: Dependencies) -> list[str]:
    """The largest weights that nothing can be removed from, and what locks them."""
    free = {group.axis for group in deps.groups}
    sizes = {value: prod(value.shape) for value in deps.source.parameters()}
    total = max(sum(sizes.values()), 1)
    out = []
    for value in sorted(sizes, key=lambda v: -sizes[v])[:_NAMED]:
        axes = [axis for dim in deps.dims[value] for axis in atoms(dim)]
        if sizes[value] / total > LARGE_WEIGHT and not free.intersection(axes):
            reasons = dict.fromkeys(axis.reason for axis in axes if axis.reason)
            why = ", ".join(reasons) or "each index differs"
            share = sizes[value] / total
            out.append(f"{value.name} ({share:.0%} of the parameters) stays whole: {why}")
    unused = deps.source.outside / max(total + deps.source.outside, 1)
    if unused > LARGE_WEIGHT:
        out.append(f"{unused:.0%} of the parameters are in weights that no operation uses")
    return out
