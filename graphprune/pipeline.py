"""Pipeline: passes in order, as data.

A pass takes a `Work` (a captured model and what was decided of it so far) and adds to it. It names
what it requires and what it ensures; both are checked, the order when a pipeline is made, the rest
when it runs. Passes of the first half *decide* what goes; those of the second half *make* the
smaller model: a plan is the work between the two.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, ClassVar

from torch import nn

from graphprune.choice.choose import Choice, Chooser
from graphprune.choice.request import Request
from graphprune.choice.select import Selection
from graphprune.compensation.calibration import Calibration, Options
from graphprune.compensation.compensate import Compensation
from graphprune.core.agreement import Agreement
from graphprune.core.batch import Batch
from graphprune.core.cuts import Cuts
from graphprune.core.edits import Edit, cut_by
from graphprune.core.errors import PassError, named_line, nearest
from graphprune.core.groups import Dependencies
from graphprune.core.program import Expressed, Inputs, Lowered, Program
from graphprune.core.proof import Verification
from graphprune.importance import Context, Criterion, Loss, Scores
from graphprune.lowrank.factoring import Factors
from graphprune.lowrank.ranks import Ranks
from graphprune.sparsity.prune import Pruned
from graphprune.sparsity.request import Sparsity
from graphprune.sparsity.zeros import Zeros


@dataclass
class Asked:
    """What the caller asks for.

    Attributes:
        request: Costs, ratios, and how they are spread over the groups.
        options: How what is removed is made up for.
        keep: Name patterns of what stays as it is.
        importance: A criterion, or its name.
        loss: For criteria that follow gradients.
        reduction: How contributions become one score.
        inputs: The caller's example inputs.
        verify: Whether the result is checked.
        seed: For whatever is drawn.
        sparsity: How many numbers become zero, which, and how they may lie.
        assume: What tells which channels are constant beside the weights: `"statistics"` of batch
            norms, `"data"`, or nothing.
        call: The call in words, for the report.
        released: Name patterns of ranks of adapters that may shrink, for they were asked for.
    """

    request: Request = field(default_factory=Request)
    options: Options = field(default_factory=Options)
    keep: Sequence[str] = ()
    importance: str | Criterion = "auto"
    loss: Loss | None = None
    reduction: str = "sum"
    inputs: Inputs | None = None
    verify: bool = True
    seed: int = 0
    sparsity: Sparsity = field(default_factory=Sparsity)
    assume: str = ""
    call: str = ""
    released: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What a pass did.

    Attributes:
        changed: Whether it changed the plan or the model.
        note: What it did, in a few words.
    """

    changed: bool
    note: str = ""


@dataclass(frozen=True)
class PassRow:
    """A pass in the report: its name, whether it changed anything, what it did, its seconds."""

    name: str
    changed: bool
    note: str
    seconds: float


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
        seconds: Time of each stage.
    """

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
        self._found: dict[str, Any] = {}

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
        return name in self._found

    def _get(self, name: str) -> Any:
        if name not in self._found:
            makers = ", ".join(k.name for k in PASSES.values() if name in k.ensures) or "none"
            raise PassError(f"{name} is not known yet; passes that find it: {makers}")
        return self._found[name]

    @property
    def deps(self) -> Dependencies:
        """The coupled groups."""
        found: Dependencies = self._get("deps")
        return found

    @deps.setter
    def deps(self, found: Dependencies) -> None:
        self._found["deps"] = found

    @property
    def scores(self) -> list[Scores]:
        """One score for each index of each group; the lowest go first."""
        found: list[Scores] = self._get("scores")
        return found

    @scores.setter
    def scores(self, found: list[Scores]) -> None:
        self._found["scores"] = found

    @property
    def zeros(self) -> Zeros:
        """The layers that can become sparse, and how many of their numbers become zero."""
        found: Zeros = self._get("zeros")
        return found

    @zeros.setter
    def zeros(self, found: Zeros) -> None:
        self._found["zeros"] = found

    @property
    def ranks(self) -> Ranks:
        """The layers that can become two in a row, and how few channels there may be between."""
        found: Ranks = self._get("ranks")
        return found

    @ranks.setter
    def ranks(self, found: Ranks) -> None:
        self._found["ranks"] = found

    @property
    def choice(self) -> Choice:
        """The indices that stay, the narrowed graph, and what code can express of it."""
        found: Choice = self._get("choice")
        return found

    @choice.setter
    def choice(self, found: Choice) -> None:
        self._found["choice"] = found

    @property
    def lowered(self) -> Lowered:
        """The smaller model."""
        found: Lowered = self._get("lowered")
        return found

    @lowered.setter
    def lowered(self, found: Lowered) -> None:
        self._found["lowered"] = found

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
        if "chooser" not in self._found:
            self._found["chooser"] = Chooser(self.program, self.deps)
        found: Chooser = self._found["chooser"]
        return found

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
        other._found = dict(self._found)
        other.edits, other.left, other.reasons = self.edits, self.left, self.reasons
        other.opened = self.opened
        other.pipeline = self.pipeline
        other.asked = replace(self.asked, options=options)
        return other


class Pass:
    """One step of a pipeline.

    Subclasses have a name, say what they require and ensure, and define `run`. Defining one
    registers it by its name.

    Attributes:
        name: Its name in pipelines, reports and on the command line.
        requires: What must have been found: names in `FINDINGS`.
        ensures: What is found afterwards.
        prepares: Whether it puts another program in the work, of which nothing is found yet.
        makes: Whether it makes the smaller model, rather than decide what goes.

    Example::

        class Widths(Pass):
            \"\"\"Say how wide the widest group stays.\"\"\"

            name = "widths"
            requires = ("choice",)

            def run(self, work):
                kept = work.deps.counts(work.selection.keep)
                return self.unchanged(f"widest group: {kept.max():.0f}")
    """

    name: ClassVar[str] = ""
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ()
    prepares: ClassVar[bool] = False
    makes: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.name:
            raise PassError(f"{cls.__name__} has no name: set the class attribute name")
        for word in (*cls.requires, *cls.ensures):
            if word not in FINDINGS:
                names = ", ".join(FINDINGS)
                raise PassError(f"pass {cls.name!r}: nothing is called {word!r}; there are {names}")
        known = PASSES.get(cls.name)
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise PassError(f"there is a pass {cls.name!r} already: {known.__qualname__}")
        PASSES[cls.name] = cls

    def run(self, work: Work) -> Outcome:
        """Do the work."""
        raise NotImplementedError(f"pass {self.name!r} defines no run(work)")

    def takes(self, work: Work, effort: str | float) -> float:
        """About how many seconds `run` takes on one core; zero where that is little or unknown.

        Args:
            work: The work once groups are known.
            effort: How long compensation may take, as for `graphprune.plan`.
        """
        return 0.0

    def before(self, work: Work) -> None:
        """Check what `requires` does not say.

        Raises:
            PassError: The pass cannot run.
        """

    def after(self, work: Work) -> None:
        """Check what the pass promises.

        Raises:
            PassError: It broke its promise.
        """

    @staticmethod
    def done(note: str = "") -> Outcome:
        """The outcome of a pass that changed something."""
        return Outcome(True, note)

    @staticmethod
    def unchanged(note: str = "") -> Outcome:
        """The outcome of a pass that changed nothing."""
        return Outcome(False, note)


FINDINGS = ("deps", "scores", "zeros", "ranks", "choice", "lowered")
"""What passes find: coupled groups, scores of their indices, how many numbers of each layer become
zero, which layers can become two, what stays, the smaller model."""

PASSES: dict[str, type[Pass]] = {}
"""All passes that are defined, by name."""


class Pipeline:
    """Passes in order.

    Args:
        passes: Passes, classes of passes, their names, or `pkg.mod:Class`; or such names in one
            text, with commas.

    Raises:
        PassError: A pass is not known, requires what no pass before it ensures, or decides
            something after another has begun to make the smaller model.

    Examples:
        >>> [step.name for step in Pipeline(["couple", "score", "select"])]
        ['couple', 'score', 'select']
    """

    def __init__(self, passes: str | Iterable[Pass | type[Pass] | str]) -> None:
        if isinstance(passes, str):
            passes = [word.strip() for word in passes.split(",")]
        if not isinstance(passes, Iterable):
            raise PassError(f"passes are a list of passes or of their names, not {passes!r}")
        self.passes = tuple(_pass(item) for item in passes)
        known: set[str] = set()
        making = before = ""
        for step in self.passes:
            missing = [word for word in step.requires if word not in known]
            if missing:
                raise PassError(
                    f"pass {step.name!r} requires {', '.join(missing)}, which no pass before it "
                    "ensures"
                )
            if step.prepares and known:
                raise PassError(
                    f"pass {step.name!r} changes the model: put it before {before!r}, which finds "
                    f"{', '.join(sorted(known))}"
                )
            if making and not step.makes:
                raise PassError(
                    f"pass {step.name!r} decides what goes: put it before {making!r}, which makes "
                    "the smaller model"
                )
            making = making or (step.name if step.makes else "")
            before = before or (step.name if step.ensures else "")
            known.update(step.ensures)

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def names(self) -> list[str]:
        """What names each pass, in this process and in a saved plan: `pkg.mod:Class` for others."""
        return [named(type(step)) for step in self.passes]

    def __repr__(self) -> str:
        return f"Pipeline({[step.name for step in self.passes]})"

    def prepare(self, work: Work) -> None:
        """Run the passes that change the model before anything is found of it."""
        for step in self.passes:
            if step.prepares:
                run(step, work)

    def decide(self, work: Work, coupled: Callable[[], None] = lambda: None) -> None:
        """Run the passes that decide what goes.

        Args:
            work: What they add to.
            coupled: Called once groups are known.
        """
        for step in self.passes:
            if not step.makes:
                run(step, work)
                if "deps" in step.ensures:
                    coupled()

    def make(self, work: Work) -> None:
        """Run the passes that make the smaller model; a plan may be applied again."""
        made = {step.name for step in self.passes if step.makes}
        work.rows = [row for row in work.rows if row.name not in made]
        for step in self.passes:
            if step.makes:
                run(step, work)


def run(step: Pass, work: Work) -> Outcome:
    """Run one pass, its conditions checked.

    Raises:
        PassError: A condition does not hold.
    """
    for word in step.requires:
        if not work.has(word):
            raise PassError(f"pass {step.name!r} requires {word}, which was not found")
    step.before(work)
    start = time.perf_counter()
    outcome = step.run(work)
    took = time.perf_counter() - start
    if not isinstance(outcome, Outcome):
        raise PassError(
            f"pass {step.name!r} returned {outcome!r}: return self.done(note) or "
            "self.unchanged(note)"
        )
    for word in step.ensures:
        if not work.has(word):
            raise PassError(f"pass {step.name!r} promises {word}, and did not find it")
    step.after(work)
    work.rows.append(PassRow(step.name, outcome.changed, outcome.note, took))
    work.seconds[step.name] = work.seconds.get(step.name, 0.0) + took
    return outcome


def named(kind: type[Pass]) -> str:
    """What names a class of passes in a saved plan: its name, or `pkg.mod:Class` of one's own."""
    own = not kind.__module__.startswith("graphprune.")
    return f"{kind.__module__}:{kind.__qualname__}" if own else kind.name


def _pass(item: Pass | type[Pass] | str) -> Pass:
    """A pass, from whatever names it."""
    if isinstance(item, Pass):
        return item
    if isinstance(item, type) and issubclass(item, Pass):
        return item()
    if isinstance(item, str) and ":" in item:
        for kind in PASSES.values():
            if named(kind) == item:
                return kind()
        module, _, name = item.partition(":")
        try:
            found = attrgetter(name)(importlib.import_module(module))
        except Exception as error:
            raise PassError(f"cannot import pass {item!r}: {named_line(error)}") from error
        if not (isinstance(found, type) and issubclass(found, Pass)) and not isinstance(
            found, Pass
        ):
            raise PassError(f"{item} is no pass: a class with the base graphprune.Pass is needed")
        return _pass(found)
    if isinstance(item, str) and item in PASSES:
        return PASSES[item]()
    raise PassError(f"no pass {item!r}: {nearest(item, PASSES)}, or name pkg.mod:Class")
