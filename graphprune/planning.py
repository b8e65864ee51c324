"""Planning: what the caller asks for, opened, and decided by a pipeline."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from graphprune.choice.request import Patterns, requested
from graphprune.compensation.options import Options
from graphprune.core.batch import Batch
from graphprune.core.groups import Dependencies
from graphprune.core.program import Program
from graphprune.costs.registry import Counting
from graphprune.extensions import load_installed
from graphprune.foretelling import Beyond, teller
from graphprune.frontends.opening import Opened, keyed, open_model
from graphprune.frontends.torch.inference import undisturbed
from graphprune.frontends.torch.inputs import as_inputs
from graphprune.models import function_named, given, given_data
from graphprune.options import (
    PlanOptions,
    SparsifyOptions,
    assumed,
    call_of,
    check_checking,
    check_options,
    check_values,
)
from graphprune.passes.agree import Agree
from graphprune.passes.couple import couple, releases
from graphprune.pipeline import Asked, Pipeline, Work
from graphprune.pipelines import DEFAULT, SPARSE
from graphprune.sparsity.request import sparsity
from graphprune.statistics.batches import UNSEEN, held_out

_log = logging.getLogger("graphprune")


@undisturbed
def planned(
    model: Any,
    ratio: float | None,
    of: str | Counting,
    options: PlanOptions,
    whole: Mapping[str, int] | None = None,
    later: Pipeline | None = None,
    points: int | None = 1,
    beyond: Beyond | None = None,
) -> Work:
    """Decide what to remove.

    Args:
        model: As for `graphprune.plan`.
        ratio: As for `graphprune.plan`.
        of: As for `graphprune.plan`.
        options: As for `graphprune.plan`.
        whole: Sizes of groups by name that fractions speak of, where the model was made smaller
            before; else they speak of the groups' own.
        later: The passes that will run in the end, where `passes` are only the first of them.
        points: How many smaller models will be made; None: one for each group.
        beyond: How long what the caller does besides takes.
    """
    check_options(options, PlanOptions, "plan")
    load_installed()
    passes = options.get("passes")
    pipeline = DEFAULT if passes is None else passes
    pipeline = pipeline if isinstance(pipeline, Pipeline) else Pipeline(pipeline)
    check_values(options)
    importance, data = options.get("importance", "auto"), options.get("data")
    if isinstance(importance, str) and ":" in importance:
        importance = function_named(importance)
    repair = Options(
        options.get("compensate", "auto"),
        options.get("effort", "auto"),
        seed=options.get("seed", 0),
    )
    inputs, model = as_inputs(options.get("example_inputs")), given(model)
    data = given_data(data, model, inputs, repair.samples() + UNSEEN)
    request = requested(
        ratio, of, importance, options.get("round_to", "auto"), options.get("budget"),
        allocation=options.get("allocation", "auto"), normalize=options.get("normalize", "mean"),
        backend=options.get("backend", "auto"), ratios=options.get("ratios"),
        limits=options.get("limits"), whole=whole,
    )  # fmt: skip
    opened = open_model(model, inputs, data, repair.samples() + UNSEEN)
    batches, unseen = parted(opened.batches, opened.program, repair, later or pipeline)
    ratios = keyed(opened, request.ratios, "ratios")
    limits = keyed(opened, request.limits, "limits")
    asked = Asked(
        request=request.located(ratios, limits),
        options=repair.reading(batches) if batches else repair,
        keep=opened.patterns(options.get("keep", ()), "keep"),
        importance=importance,
        loss=options.get("loss"),
        reduction=options.get("reduction", "sum"),
        inputs=inputs,
        verify=options.get("verify", True),
        seed=options.get("seed", 0),
        assume=assumed(options.get("assume")),
        call=call_of(ratio, of, options),
        released=_released(opened, [*ratios, *limits]),
    )  # fmt: skip
    work = worked(opened, asked, batches, unseen)
    work.pipeline = pipeline
    if work.program.assumed:
        _log.info("inputs assumed, as none were given: %s", work.program.assumed)
    pipeline.decide(work, teller(work, later or pipeline, points, beyond))
    if work.has("choice"):
        found, kept = work.selection, work.deps.counts(work.selection.keep)
        fewer = int((kept < work.deps.sizes()).sum())
        _log.info(
            "%s: %.1f%% of %s go (asked for %.1f%%), from %d of %d groups", work.program.name,
            100 * found.achieved, found.of, 100 * found.asked, fewer, len(work.deps.groups),
        )  # fmt: skip
    return work


def _released(opened: Opened, given: Sequence[Patterns]) -> list[str]:
    """The name patterns among the options that ask for ranks of adapters, which else stay."""
    several = [(name,) if isinstance(name, str) else name for name in given]
    graph = opened.program.graph
    return [name for names in several if releases(graph, names) for name in names]


def planned_sparse(model: Any, ratio: float | None, pattern: str, options: SparsifyOptions) -> Work:
    """Decide what becomes zero; the arguments are those of `graphprune.plan_sparsity`."""
    check_options(options, SparsifyOptions, "sparsify")
    load_installed()
    check_checking(options.get("verify", True), options.get("seed", 0))
    request = sparsity(
        ratio, pattern, options.get("importance", "auto"), options.get("spread", "auto")
    )
    repair = Options(
        options.get("compensate", "auto"),
        options.get("effort", "auto"),
        seed=options.get("seed", 0),
    )
    inputs = as_inputs(options.get("example_inputs"))
    model = given(model)
    most = repair.samples() + UNSEEN
    data = given_data(options.get("data"), model, inputs, most)
    opened = open_model(model, inputs, data, most)
    batches, unseen = parted(opened.batches, opened.program, repair, SPARSE)
    keep = options.get("keep")
    asked = Asked(
        options=repair.reading(batches) if batches else repair,
        inputs=inputs,
        verify=options.get("verify", True),
        seed=options.get("seed", 0),
        sparsity=replace(request, keep=None if keep is None else opened.patterns(keep, "keep")),
    )
    work = worked(opened, asked, batches, unseen)
    work.pipeline = SPARSE
    SPARSE.decide(work, teller(work, SPARSE))
    return work


def parted(
    batches: Sequence[Batch], program: Program, options: Options, passes: Pipeline
) -> tuple[list[Batch], list[Batch]]:
    """The data that steps look at, and those that are held out where a pass compares at the end."""
    if not any(isinstance(step, Agree) for step in passes):
        return list(batches), []
    return held_out(batches, options.samples(), max(program.batch(), 1))


def worked(
    opened: Opened,
    asked: Asked,
    batches: Sequence[Batch] | None = None,
    unseen: Sequence[Batch] = (),
) -> Work:
    """The work on a model that was opened.

    Args:
        opened: The captured model.
        asked: What the caller asks for.
        batches: Calibration data; all that was opened where not given.
        unseen: Data that were held out of it.
    """
    work = Work(opened.program, asked, opened.batches if batches is None else batches, unseen)
    work.seconds.update(opened.seconds)
    work.pipeline = DEFAULT
    return work


def analyzed(model: Any, example_inputs: Any, keep: Any) -> Dependencies:
    """The coupled groups of a model; the arguments are those of `graphprune.analyze`."""
    return opened_and_coupled(model, example_inputs, keep)[1]


def opened_and_coupled(
    model: Any, example_inputs: Any, keep: Any = ()
) -> tuple[Opened, Dependencies]:
    """A captured model and its coupled groups; the arguments are those of `graphprune.analyze`."""
    load_installed()
    opened = open_model(given(model), as_inputs(example_inputs))
    return opened, couple(opened.program.graph, opened.patterns(keep, "keep"))
