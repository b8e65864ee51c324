"""A pass: one step of a pipeline."""

from __future__ import annotations

from typing import ClassVar

from graphprune.core.errors import PassError
from graphprune.pipeline.outcome import Outcome
from graphprune.pipeline.registry import FINDINGS, PASSES
from graphprune.pipeline.work import Work


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

    def reads(self, work: Work) -> bool:
        """Whether it looks at samples; the first pass that does makes or reads them.

        Args:
            work: The work once groups are known.
        """
        return False

    def takes(self, work: Work, effort: str | float) -> float:
        """About how many seconds `run` takes on one core; zero where that is little or unknown.

        The samples that it looks at are counted apart.

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
