"""Pipeline: passes in order, as data.

A pass takes a `Work` (a captured model and what was decided of it so far) and adds to it. It names
what it requires and what it ensures; both are checked, the order when a pipeline is made, the rest
when it runs. Passes of the first half *decide* what goes; those of the second half *make* the
smaller model: a plan is the work between the two.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter

from graphprune.core.errors import PassError, named_line, nearest
from graphprune.pipeline.outcome import Outcome, PassRow
from graphprune.pipeline.registry import PASSES
from graphprune.pipeline.step import Pass
from graphprune.pipeline.work import Work


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
    raise PassError(f"no pass {item!r}: {nearest(item, sorted(PASSES))}, or name pkg.mod:Class")
