"""Running rewrites: found on a draft of the graph, made by the frontend, and held against it.

Passes in a row share a draft: the model is copied and captured anew once, when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from graphprune.core.errors import GraphPruneError, VerifyError, first_line
from graphprune.core.graph import Graph, Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.core.rewrites import Draft, Rewrite
from graphprune.engine.run import final_values, given_inputs
from graphprune.engine.tensors import difference
from graphprune.passes.couple import couple
from graphprune.pipeline import Outcome, Pass, Work

_TOLERANCE = 1e-4  # relative: new weights are rounded to single precision, in every layer
_TRIALS = 8  # rewrites that are given up one by one before all are

Find: TypeAlias = "Callable[[Draft, Op], Rewrite | str | None]"
"""What can be made of an operation: a rewrite, why there is none, or None where none is due."""


Results: TypeAlias = "list[torch.Tensor | None]"


@dataclass
class _Pending:
    """A draft that no model was made of yet; calling it makes the program."""

    work: Work
    draft: Draft
    finds: list[Find] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __call__(self) -> Program:
        program, work = self.work.written, self.work
        verify = work.asked.verify and not work.assumed
        deps: Dependencies | None = None
        wanted: Results | None = None
        given_up: dict[str, str] = {}
        draft = self.draft
        while draft.made and len(given_up) < _TRIALS:
            deps = deps or couple(program.graph)
            if verify and wanted is None:
                wanted = _results(program.graph, program.flat_inputs())
            try:
                return _made(program, draft, deps, wanted)
            except GraphPruneError as error:
                wrong = _first_wrong(program, draft.made, deps, wanted)
                given_up[wrong.at] = first_line(error)
            draft = Draft(program.graph)
            for find in self.finds:
                _extend(program, draft, find, given_up, work.codes)
            where = _places(draft)
            work.left |= {where[name]: why for name, why in given_up.items()}
        return program


def rewrite(work: Work, find: Find) -> int:
    """Note every rewrite that is found; the model is made when it is needed.

    Args:
        work: The work; nothing has been found of its program yet. What stays although its kind
            could go is added to `work.left`, by its `place`.
        find: Finds what can be made of an operation.

    Returns:
        How many there are.
    """
    pending = work.pending
    if not isinstance(pending, _Pending):
        pending = _Pending(work, Draft(work.program.graph))
    draft = pending.draft
    before = len(draft.made)
    left = _extend(work.written, draft, find, {}, work.codes)
    if len(draft.made) > before:  # where code is to be generated, more can go
        for earlier in pending.finds:
            _extend(work.written, draft, earlier, {}, work.codes)
    where = _places(draft)
    known = {place(op) for op in draft.ops}
    work.left = {name: why for name, why in work.left.items() if name in known}
    work.left |= {where[name]: why for name, why in left.items()}
    pending.finds.append(find)
    work.pending = pending
    return len(draft.made) - before


def rewritten(work: Work, find: Find, did: str, do: str) -> Outcome:
    """Note every rewrite that is found, and say in a report how many there are.

    Args:
        work: As for `rewrite`.
        find: As for `rewrite`.
        did: What was done to each: "merged".
        do: The same as an infinitive: "merge".
    """
    number = rewrite(work, find)
    return Pass.done(f"{number} {did}") if number else Pass.unchanged(f"nothing to {do}")


def place(op: Op) -> str:
    """What names an operation in reports: its module, or the operation of a file."""
    return op.module or op.name


def _places(draft: Draft) -> dict[str, str]:
    return {op.name: place(op) for op in draft.source.ops}


def _extend(
    program: Program, draft: Draft, find: Find, given_up: dict[str, str], code: bool
) -> dict[str, str]:
    """Make all rewrites on a draft that the frontend can make, and say why what stays does."""
    left: dict[str, str] = {}
    again = True
    while again:
        again, left = False, {}
        for op in list(draft.ops):
            found = find(draft, op) if draft.holds(op) and op.name not in given_up else None
            if isinstance(found, Rewrite):
                why = program.refuses(found, draft, code)
                if not why:
                    draft.make(found)
                    again = True
                    continue
                found = None if found.slight else why
            if found is not None:
                left[op.name] = found
    return left


def _made(program: Program, draft: Draft, deps: Dependencies, wanted: Results | None) -> Program:
    """Make the program of a draft, and hold it against what the original gives, where asked."""
    made = program.rewritten(draft, deps)
    if wanted is not None:
        _same(program.graph, wanted, _results(made.graph, program.flat_inputs()))
    return made


def _first_wrong(
    program: Program, rewrites: Sequence[Rewrite], deps: Dependencies, wanted: Results | None
) -> Rewrite:
    """The first rewrite up to which a program cannot be made, found by halving."""
    good, bad = 0, len(rewrites)
    while bad - good > 1:
        middle = (good + bad) // 2
        draft = Draft(program.graph)
        for step in rewrites[:middle]:
            draft.make(step)
        try:
            _made(program, draft, deps, wanted)
            good = middle
        except GraphPruneError:
            bad = middle
    return rewrites[bad - 1]


def check(before: Graph, after: Graph, inputs: list[torch.Tensor]) -> float:
    """Run two graphs on the same inputs.

    Returns:
        The largest relative difference between their results.

    Raises:
        VerifyError: They differ by more than the rounding of weights.
    """
    return _same(before, _results(before, inputs), _results(after, inputs))


def _results(graph: Graph, inputs: list[torch.Tensor]) -> Results:
    """What a graph returns."""
    given = given_inputs(graph, inputs, graph.engine.dtype)
    try:
        found = final_values(graph, lambda v: v.tensor, given, dtype=graph.engine.dtype)
    except RuntimeError as error:
        raise VerifyError(
            f"the model does not run by single operations: {first_line(error)}; pass example "
            "inputs that it accepts, or verify=False",
            "",
            float("inf"),
        ) from error
    return [found.get(value) for value in _returned(graph)]


def _returned(graph: Graph) -> list[Value]:
    """The outputs that evaluation makes: training may make others, or, rewritten, none."""
    trained = {value for op in graph.training for value in op.outputs}
    return [value for value in graph.outputs if value not in trained]


def _same(before: Graph, wanted: Results, found: Results) -> float:
    """The largest relative difference between results; see `check`."""
    worst = 0.0
    if len(found) != len(wanted):
        raise VerifyError("there would be other results", "", float("inf"))
    for value, expected, made in zip(_returned(before), wanted, found, strict=True):
        if expected is None or made is None:
            raise VerifyError(f"{value.name} would not be made as before", value.name, float("inf"))
        gap = difference(expected.double(), made.double())
        if gap > _TOLERANCE:
            raise VerifyError(f"{value.name} would differ by {gap:.3g}", value.name, gap)
        worst = max(worst, gap)
    return worst
