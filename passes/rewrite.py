"""Running rewrites: found on a draft of the graph, made by the frontend, and held against it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from graphprune.core.errors import GraphPruneError, VerifyError, first_line
from graphprune.core.graph import Graph, Op
from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.core.rewrites import Draft, Rewrite
from graphprune.engine.run import final_values, given_inputs
from graphprune.engine.tensors import difference
from graphprune.passes.couple import couple
from graphprune.pipeline import Work

_TOLERANCE = 1e-4  # relative: new weights are rounded to single precision, in every layer
_TRIALS = 8  # rewrites that are given up one by one before all are

Find: TypeAlias = "Callable[[Draft, Op], Rewrite | str | None]"
"""What can be made of an operation: a rewrite, why there is none, or None where none is due."""


@dataclass
class Rewritten:
    """What came of looking for rewrites.

    Attributes:
        made: Those that were made.
        left: By name of an operation, why it stays although its kind could go.
    """

    made: Sequence[Rewrite] = ()
    left: dict[str, str] = field(default_factory=dict)


def rewrite(work: Work, find: Find) -> Rewritten:
    """Make every rewrite that is found, and put the new program in the work.

    Args:
        work: The work; nothing has been found of its program yet.
        find: Finds what can be made of an operation.
    """
    program = work.program
    given_up: dict[str, str] = {}
    deps: Dependencies | None = None
    while True:
        draft, left = drafted(program, find, given_up)
        left |= given_up
        if not draft.made:
            return Rewritten(left=left)
        deps = deps or couple(program.graph)
        try:
            work.program = _made(program, draft, deps, work.asked.verify)
            return Rewritten(draft.made, left)
        except GraphPruneError as error:
            why = first_line(error)
        if len(given_up) == _TRIALS:
            return Rewritten(left={**left, **{step.at: why for step in draft.made}})
        wrong = _first_wrong(program, draft.made, deps, work.asked.verify)
        given_up[wrong.at] = why


def drafted(
    program: Program, find: Find, given_up: Collection[str] = ()
) -> tuple[Draft, dict[str, str]]:
    """The graph with all rewrites made that the frontend can make, and why what stays does."""
    draft = Draft(program.graph)
    again = True
    while again:
        again, left = False, {}
        for op in list(draft.ops):
            found = find(draft, op) if draft.holds(op) and op.name not in given_up else None
            if isinstance(found, Rewrite):
                why = program.refuses(found, draft)
                if not why:
                    draft.make(found)
                    again = True
                    continue
                found = why
            if found is not None:
                left[op.name] = found
    return draft, left


def _made(program: Program, draft: Draft, deps: Dependencies, verify: bool) -> Program:
    made = program.rewritten(draft, deps)
    if verify:
        check(program.graph, made.graph, program.flat_inputs())
    return made


def _first_wrong(
    program: Program, rewrites: Sequence[Rewrite], deps: Dependencies, verify: bool
) -> Rewrite:
    """The first rewrite up to which a program cannot be made, found by halving."""
    good, bad = 0, len(rewrites)
    while bad - good > 1:
        middle = (good + bad) // 2
        draft = Draft(program.graph)
        for step in rewrites[:middle]:
            draft.make(step)
        try:
            _made(program, draft, deps, verify)
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
    results = []
    for graph in (before, after):
        given = given_inputs(graph, inputs, graph.engine.dtype)
        found = final_values(graph, lambda v: v.tensor, given, dtype=graph.engine.dtype)
        results.append([found[value] for value in graph.outputs if value in found])
    worst = 0.0
    for value, expected, found_ in zip(before.outputs, *results, strict=True):
        gap = difference(expected.double(), found_.double())
        if gap > _TOLERANCE:
            raise VerifyError(f"{value.name} would differ by {gap:.3g}", value.name, gap)
        worst = max(worst, gap)
    return worst
