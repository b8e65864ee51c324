"""The work: a captured model, and what passes have found and made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import nn

from graphprune.choice.choose import Choice, Chooser
from graphprune.choice.select import Selection
from graphprune.compensation.calibration import Calibration
from graphprune.compensation.compensate import Compensation
from graphprune.compensation.options import Options
from graphprune.core.agreement import Agreement
from graphprune.core.batch import Batch
from graphprune.core.cuts import Cuts
from graphprune.core.edits import Edit, cut_by
from graphprune.core.errors import PassError
from graphprune.core.groups import Dependencies
from graphprune.core.program import Expressed, Lowered, Program
from graphprune.core.proof import Verification
from graphprune.importance import Context, Scores
from graphprune.importance.free import merged, rounds
from graphprune.importance.freedom import Free, Masks
from graphprune.lowrank.factoring import Factors
from graphprune.lowrank.ranks import Ranks
from graphprune.pipeline.asked import Asked
from graphprune.pipeline.outcome import PassRow
from graphprune.pipeline.registry import PASSES
from graphprune.sparsity.prune import Pruned
from graphprune.sparsity.zeros import Zeros

if TYPE_CHECKING:  # which runs passes on this
    from graphprune.pipeline.pipeline import Pipeline

T = TypeVar("T")


class Finding(Generic[T]):
    """What passes find, as an attribute of `Work`; reading it before is a `PassError`."""

    def __set_name__(self, _: type[Work], name: str) -> None:
        self._name = name

    def __get__(self, work: Work, _: type[Work] | None = None) -> T:
        if self._name not in work.found:
            makers = [step.name for step in PASSES.values() if self._name in step.ensures]
            which = ", ".join(makers) or "none"
            raise PassError(f"{self._name} is not known yet; passes that find it: {which}")
        found: T = work.found[self._name]
        return found

    def __set__(self, work: Work, found: T) -> None:
        work.found[self._name] = found


class Work:
    """A captured model, what is asked for, and what passes have found and made.

    What a pass has not found yet cannot be read: a `PassError` names the passes that find it.

    Attributes:
        asked: What the caller asks for.
        batches: Calibration data.
        unseen: Data that were held out of it, for a comparison at the end.
        pending: Makes the program that rewrites ask for, once it is needed.
        codes: Whether passes that change the model may generate code for it.
        edits: What the plan changes.
        solved: Weights that make up for what was removed; None where there are none.
        opened: The model as it was captured first, before passes changed it.
        analysed: The analysis of the model as it was when a pass last asked for it.
        left: What stays although its kind could go, by name, with the reason.
        reasons: For each group that loses indices at no cost, how many go for which reason.
        gap: By how much the smaller model's results differ from the given one's; None where they
            were not compared.
        assumed: What was taken for granted so that channels go; empty where nothing was.
        training_gap: The same in training mode; None where that cannot be compared.
        pruned: Sparse weights; None where there are none.
        factors: Layers as two in a row; None where there are none.
        verification: What was proven; None where nothing was checked.
        agreement: How far the smaller model answers as the original does; None where that was not
            measured.
        latency: Seconds of a forward pass before and after, where they were measured.
        predicted: The speed-up that the table of operations predicted.
        pipeline: The passes that were run, and those that make the smaller model.
        rows: What each pass did.
        found: What passes have found, by name.
        seconds: Time of each stage.
    """

    deps = Finding[Dependencies]()
    """The coupled groups."""

    scores = Finding[list[Scores]]()
    """One score for each index of each group; the lowest go first."""

    zeros = Finding[Zeros]()
    """The layers that can become sparse, and how many of their numbers become zero."""

    ranks = Finding[Ranks]()
    """The layers that can become two in a row, and how few channels there may be between."""

    choice = Finding[Choice]()
    """The indices that stay, the narrowed graph, and what code can express of it."""

    lowered = Finding[Lowered]()
    """The smaller model."""

    def __init__(
        self,
        program: Program,
        asked: Asked,
        batches: Sequence[Batch] = (),
        unseen: Sequence[Batch] = (),
    ) -> None:
        self._program = self.opened = program
        self.pending: Callable[[], Program] | None = None
        self.asked = asked
        self.batches = batches
        self.unseen = unseen
        self.codes = True
        self.edits: list[Edit] = []
        self.left: dict[str, str] = {}
        self.reasons: dict[str, dict[str, int]] = {}
        self.gap: float | None = None
        self.training_gap: float | None = None
        self.assumed = ""
        self.analysed: Dependencies | None = None
        self._freedom: Free | None = None
        self._statistics: Calibration | None = None
        self.solved: Compensation | None = None
        self.pruned: Pruned | None = None
        self.factors: Factors | None = None
        self.verification: Verification | None = None
        self.agreement: Agreement | None = None
        self.latency: tuple[float, float] | None = None
        self.predicted: float | None = None
        self.pipeline: Pipeline | None = None
        self.rows: list[PassRow] = []
        self.seconds: dict[str, float] = {}
        self.found: dict[str, Any] = {}

    @property
    def program(self) -> Program:
        """The captured model, rewrites made."""
        if self.pending is not None:
            make, self.pending = self.pending, None
            self._program = make()
        return self._program

    @program.setter
    def program(self, program: Program) -> None:
        self._program, self.pending = program, None

    @property
    def written(self) -> Program:
        """The captured model as it is, whatever is pending."""
        return self._program

    def has(self, name: str) -> bool:
        """Whether something has been found: a name in `FINDINGS`."""
        return name in self.found

    @property
    def selection(self) -> Selection:
        """The indices that stay, and the ratio reached."""
        return self.choice.selection

    @property
    def cuts(self) -> Cuts:
        """The narrowed graph."""
        return self.choice.cuts

    @property
    def expressed(self) -> Expressed:
        """What the model's code can express of the choice."""
        return self.choice.expressed

    @property
    def chooser(self) -> Chooser:
        """Makes choices for this model."""
        if "chooser" not in self.found:
            self.found["chooser"] = Chooser(self.program, self.deps, lambda: self.free)
        found: Chooser = self.found["chooser"]
        return found

    @property
    def free(self) -> Masks:
        """The indices whose removal changes no result, found once for the coupled groups."""
        if "free" not in self.found:
            first = self.freedom(self.deps)
            self.found["free"] = merged(step.found for step in rounds(first))
        found: Masks = self.found["free"]
        return found

    def freedom(self, deps: Dependencies) -> Free:
        """What an analysis tells of the indices that go at no cost; found once for each."""
        if self._freedom is None or self._freedom.deps is not deps:
            self._freedom = Free(deps)
        return self._freedom

    def statistics(self) -> Calibration:
        """Statistics of what layers read, taken when they are first needed."""
        if self._statistics is None:
            self._statistics = Calibration(self.program, self.deps, self.asked.options)
        return self._statistics

    def share(self, statistics: Calibration) -> None:
        """Use statistics that were taken for another choice of the same model."""
        self._statistics = statistics

    def context(self) -> Context:
        """What criteria may look at."""
        program = self.program
        model = program.model if program.original is None else program.original
        module = model if isinstance(model, nn.Module) else None
        context = Context(
            self.deps, module, program.example(), self.batches, self.asked.loss, self.asked.seed
        )
        context.replay = program.replayed
        return context

    def take(self, edits: Sequence[Edit], asked: float, of: str) -> None:
        """Use edits that were decided elsewhere: loaded, or changed by hand.

        Args:
            edits: The edits.
            asked: The ratio that was asked for when they were decided.
            of: The cost that it speaks of.

        Raises:
            PlanError: An edit does not fit the model.
        """
        keep = cut_by(edits, self.deps)
        self.edits = list(edits)
        self.choice = self.chooser.take(Selection(keep, asked, asked, 1, of))

    def again(
        self, batches: Sequence[Batch], options: Options, unseen: Sequence[Batch] = ()
    ) -> Work:
        """The same choice, with other statistics.

        Args:
            batches: Other data.
            options: How what is removed is made up for.
            unseen: Data that were held out of it.
        """
        other = Work(self.program, self.asked, batches, unseen)
        other.found = dict(self.found)
        other.edits, other.left, other.reasons = self.edits, self.left, self.reasons
        other.opened = self.opened
        other.pipeline = self.pipeline
        other.asked = replace(self.asked, options=options)
        return other
