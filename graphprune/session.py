"""A plan together with the live model that it was made for: choosing, making, proving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from graphprune.choice.request import Request
from graphprune.choice.select import Selection, select
from graphprune.choice.threshold import threshold
from graphprune.choice.tie import learn, preferences, repeated
from graphprune.compensation.calibration import Calibration, Options
from graphprune.compensation.calibration import write as write_weights
from graphprune.core.axes import Axis
from graphprune.core.batch import Batch
from graphprune.core.cuts import Cuts, narrow
from graphprune.core.errors import BudgetError, GraphPruneError, VerifyError
from graphprune.core.groups import Dependencies
from graphprune.core.ledger import timed
from graphprune.core.program import Inputs
from graphprune.core.proof import Verification
from graphprune.core.relations import Relation, Ties
from graphprune.costs.counted import Counts, cost
from graphprune.frontends.torch.compare import check_runs, compare
from graphprune.frontends.torch.config import UNTOLD, Fit, describe, fit_config, has_config
from graphprune.frontends.torch.lower import Lowered, lower
from graphprune.frontends.torch.parts import whole
from graphprune.frontends.torch.survey import Survey, survey
from graphprune.importance import Context, Criterion, Scores
from graphprune.importance.score import score
from graphprune.passes.verify import verify as verify_cuts
from graphprune.report.report import GroupRow, Report, lock_reasons

Choice: TypeAlias = tuple[int, Selection, Cuts, Survey, Fit | None]
"""What code cannot express, counted, and the choice that this is true of."""

_ROUNDS = 8  # how often lengths that the code equates are learned and the choice is made again


class Session:
    """A captured model, its analysis, and the choice made for it.

    Attributes:
        program: The captured model, as its frontend holds it.
        deps: The analysis.
        seconds: Time of each stage so far.
        selection: Which indices stay.
        cuts: The narrowed graph.
        found: What the model's code can express.
        back: Puts the smaller model into the wrapper that the given one came in.
        request: What was asked for; None for a choice that was loaded.
        latency: Seconds of a forward pass before and after, where they were measured.
        predicted: The speed-up that the table of operations predicted.
        calibration: Statistics, where what is removed is to be made up for.
        batches: Calibration data, where its kind was not known before the model was read.
        fit: How well the model's config can describe the choice, where it has one.
        guessing: Whether surveys are to guess attributes, as was better in an earlier round.
    """

    selection: Selection
    cuts: Cuts
    found: Survey
    request: Request | None = None
    latency: tuple[float, float] | None = None
    predicted: float | None = None
    calibration: Calibration | None = None
    batches: Sequence[Batch] = ()
    fit: Fit | None = None
    guessing: bool | None = None

    def __init__(self, program: Any, deps: Dependencies, seconds: dict[str, float]) -> None:
        self.program = program
        self.deps = deps
        self.seconds = seconds
        self.back: Callable[[Any, Any], Any] = lambda model, _: model

    def recalibrated(self, options: Options) -> Session:
        """The same choice, with other statistics."""
        again = type(self)(self.program, self.deps, {})
        again.calibration = Calibration(self.program, self.deps, options)
        again.selection, again.cuts, again.found = self.selection, self.cuts, self.found
        again.fit, again.back = self.fit, self.back
        return again

    def take(self, selection: Selection) -> None:
        """Use a selection."""
        original = self.found.original if hasattr(self, "found") else None
        self.selection = selection
        self.cuts = timed(self.seconds, "narrow", narrow, self.deps, selection.keep)
        known = self.program, self.cuts, True, original, self.guessing
        self.found = timed(self.seconds, "survey", survey, *known)
        if has_config(self.program.model):
            given = self.program.model, self.cuts, self.found.edits, self.fit
            self.fit = timed(self.seconds, "config", fit_config, *given)

    def scored(
        self, importance: str | Criterion, request: Request, context: Context, reduction: str
    ) -> tuple[list[Scores], Request]:
        """Scores, and the request that says how they are spent.

        `"obs"` scores by the full Hessian of every reader's squared error, the inverse of which is
        downdated as indices go (Hassibi & Stork, Optimal Brain Surgeon, 1993); `"auto"` lets the
        same curves decide how much of each group goes.

        Raises:
            GraphPruneError: There is no such criterion, or it lacks what it needs.
        """
        if importance in ("auto", "obs"):
            curves = None
            if self.calibration is not None and (request.nontrivial() or importance == "obs"):
                curves = timed(self.seconds, "calibrate", self.calibration.levels)
            if curves is not None:
                loss = importance == "auto" and request.allocation == "auto"
                return curves, replace(request, allocation="loss") if loss else request
            if importance == "obs":
                why = self.calibration.note if self.calibration else "off"
                raise GraphPruneError(
                    f"importance='obs' needs statistics of the layers' inputs, and there are none "
                    f"(compensation: {why}): pass data=, and leave compensate on"
                )
            importance = "l2"
        scores = timed(self.seconds, "score", score, self.deps, importance, context, reduction)
        return scores, request

    def decide(self, request: Request, scores: Sequence[Scores]) -> None:
        """Choose the indices that stay.

        With `allocation="auto"`, lengths that the model's code takes for one another are
        learned from where the narrowed code goes wrong, and kept equal if the budget allows.
        """
        self.request = request
        best = self._best(request, scores)
        if best[0] and request.allocation == "loss":
            # Equal fractions leave more lengths equal, which the caller's code may need.
            even = self._best(replace(request, allocation="auto"), scores)
            best = even if even[0] < best[0] else best
        _, self.selection, self.cuts, self.found, self.fit = best

    def _best(self, request: Request, scores: Sequence[Scores]) -> Choice:
        """The choice that the model's own code can express best."""
        learned: list[Relation] = []
        wished: list[Relation] = []
        best: Choice | None = None
        for _ in range(_ROUNDS):
            ties: list[Ties] = []
            if request.allocation in ("auto", "loss"):
                ties = preferences(self.deps, learned, self._alike(), wished)
            self.take(self._explained(request, scores, ties))
            best = self._better(best)
            if self.guessing is None:
                self.guessing = self.found.guessing
            if not ties or not self._learn(learned, wished):
                break
        assert best is not None
        known, self.guessing = self.guessing, None
        if best[3].offenders and known is not None:
            self.take(best[1])
            best = self._better(best)
        return best

    def _better(self, best: Choice | None) -> Choice:
        """The choice that is taken, or the best one so far."""
        wrong = 2 * len(self.found.offenders) + (self.fit is not None and not self.fit.fits)
        if best is None or wrong < best[0]:
            return wrong, self.selection, self.cuts, self.found, self.fit
        return best

    def _explained(self, request: Request, scores: Sequence[Scores], ties: list[Ties]) -> Selection:
        """Select; an error tells what the capture left alone too."""
        try:
            return self._select(request, scores, ties)
        except BudgetError as error:
            text = "\n".join([str(error), *self.program.warnings])
            raise BudgetError(text, closest=error.closest) from None

    def _select(self, request: Request, scores: Sequence[Scores], ties: list[Ties]) -> Selection:
        work = select if request.asked() else threshold
        return timed(self.seconds, "select", work, self.deps, scores, request, ties)

    def _alike(self) -> bool:
        """Whether parts of the model that are built alike should keep equal widths."""
        return has_config(self.program.model)

    def _learn(self, learned: list[Relation], wished: list[Relation]) -> bool:
        """Whether the narrowed code, or its config, teaches a relation that was not known.

        Where a module goes on failing, the widths inside it are to stay.
        """
        counts = {axis: len(kept) for axis, kept in self.selection.keep.items()}
        found = learn(self.deps, counts, self.found.mismatches)
        if all(relation in learned for relation in found):
            inside = (axis for path in self.found.offenders for axis in self._inside(path))
            found = [((axis,), ()) for axis in inside]
        if not self._alike():  # whose blocks are tied as a whole
            found = [*found, *repeated(self.deps, found)]
        wishes = learn(self.deps, counts, self.fit.mismatches) if self.fit else []
        new = [relation for relation in found if relation not in learned]
        wish = [relation for relation in wishes if relation not in wished]
        learned.extend(dict.fromkeys(new))
        wished.extend(dict.fromkeys(wish))
        return bool(new or wish)

    def _inside(self, path: str) -> Iterator[Axis]:
        """Axes that only weights of one module hold; none for the whole model."""
        for group in self.deps.groups:
            names = (member.weight.name for member in group.members)
            if path and all(name.startswith(f"{path}.") for name in names):
                yield group.axis

    def runnable(self, smaller: bool) -> Any:
        """The model, or the smaller one as chosen, to be timed: not checked, not compensated."""
        original = self.program.original
        if not smaller:
            return self.program.model if original is None else original
        module = lower(self.program, self.found).model
        return module if original is None else whole(module, original)

    def example(self, given: Inputs | None = None) -> Inputs:
        """The inputs to time it on: the caller's where there are any."""
        found: Inputs = given or self.program.given or self.program.inputs
        return found

    def finish(self, verify: bool, seed: int, of: str) -> tuple[Any, Report]:
        """The smaller model and what is to be told of it.

        Args:
            verify: Whether to check it.
            seed: For the perturbations of the check.
            of: The cost that the ratio speaks of.
        """
        lowered, verification = self.lowered(verify, seed)
        report = self.report(of)
        report.verification = verification
        report.kept_class = "" not in lowered.replaced
        report.replaced = lowered.replaced
        report.edits = lowered.edits
        report.folded = [fold.weight.name for fold in lowered.folds]
        return self.back(lowered.model, self.program.given or self.program.inputs), report

    def write(self, path: Path, verify: bool, seed: int, of: str) -> Report:
        """Make the smaller model and write it to a file."""
        from graphprune.frontends.torch.saving import save_model

        model, report = self.finish(verify, seed, of)
        save_model(model, self.program.given or self.program.inputs, path)
        return report

    def lowered(self, verify: bool, seed: int) -> tuple[Lowered, Verification | None]:
        """The smaller module, checked if asked for, then compensated.

        Where the module's own code turns out to compute something else, folding is given up
        first, then more and more of the code.
        """
        lowered, outcome = self._checked(verify, seed)
        if self.calibration is not None:
            solved = timed(self.seconds, "compensate", self.calibration.solve, self.cuts)
            if solved is not None:
                write_weights(lowered.model, solved, lowered.folds)
        if self.program.original is not None:
            lowered.model = whole(lowered.model, self.program.original)
            if verify:
                timed(self.seconds, "verify", check_runs, lowered.model, self.program.given)
        self._describe(lowered)
        return lowered, outcome

    def _describe(self, lowered: Lowered) -> None:
        """Give a config its new sizes, or say that it cannot tell them."""
        if self.fit is None:
            return
        made = not lowered.replaced and self.fit.shaped
        inputs = self.program.given or self.program.inputs
        if made and timed(self.seconds, "config", describe, lowered.model, self.fit.values, inputs):
            return
        if UNTOLD not in self.program.warnings:  # a plan may be applied again
            self.program.warnings.append(UNTOLD)

    def _checked(self, verify: bool, seed: int) -> tuple[Lowered, Verification | None]:
        lowered = timed(self.seconds, "lower", lower, self.program, self.found)
        if not verify:
            return lowered, None
        outcome = timed(
            self.seconds, "verify", verify_cuts, self.cuts, self.program.flat_inputs(), seed
        )
        while True:
            try:
                outcome.lowered = timed(
                    self.seconds, "verify", compare, self.program, self.cuts, lowered
                )
                return lowered, outcome
            except VerifyError as error:
                if "" in lowered.replaced:
                    raise
                lowered = self._more_generated(lowered, str(error))

    def _more_generated(self, lowered: Lowered, why: str) -> Lowered:
        """Lower again: without folded scales, else with the parents of what was replaced."""
        if lowered.folds:
            self.found = survey(self.program, self.cuts, False, self.found.original)
            return lower(self.program, self.found)
        parents = {path.rpartition(".")[0]: why for path in lowered.replaced} or {"": why}
        return lower(self.program, self.found, offenders=parents)

    def full_counts(self) -> Counts:
        """The size of every group."""
        return np.array([group.size for group in self.deps.groups], dtype=np.float64)

    def kept_counts(self) -> Counts:
        """How many indices every group keeps."""
        keep = self.selection.keep
        return np.array(
            [len(keep[g.axis]) if g.axis in keep else g.size for g in self.deps.groups],
            dtype=np.float64,
        )

    def report(self, of: str) -> Report:
        """The numbers of the plan."""
        full, kept = self.full_counts(), self.kept_counts()
        asked = {of} if self.request is None else {of, *self.request.asked()}
        others = [cost(self.deps, name) for name in sorted(asked & {"memory"})]
        params, macs = cost(self.deps, "params"), cost(self.deps, "macs")
        batch = max(self.program.batch(), 1)
        achieved = self.selection.achieved
        if of != "latency":  # which only a measurement tells
            spent = cost(self.deps, of)
            achieved = 1 - spent(kept) / spent(full) if spent(full) else 0.0
        return Report(
            model=self.program.name,
            of=of,
            asked=self.selection.asked,
            achieved=achieved,
            params=(round(params(full)), round(params(kept))),
            macs=(round(macs(full) / batch), round(macs(kept) / batch)),
            memory=next(((round(c(full)), round(c(kept))) for c in others), None),
            latency=self.latency,
            predicted=self.predicted,
            groups=[
                GroupRow(group.name, group.size, int(count), len(group.members))
                for group, count in zip(self.deps.groups, kept, strict=True)
            ],
            locks=lock_reasons(self.deps),
            unknown=self.deps.unknown,
            compensation=self.calibration.note if self.calibration else "",
            left=self.calibration.left if self.calibration else {},
            seconds=self.seconds,
            warnings=self.program.warnings,
        )
