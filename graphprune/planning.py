"""Planning: what the caller asks for, checked and opened, and the default pipeline."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch.utils import _pytree as pytree

from graphprune.choice.request import Limits, Patterns, requested
from graphprune.compensation.calibration import Options
from graphprune.core.batch import Batch
from graphprune.core.errors import OptionError, nearest
from graphprune.core.groups import Dependencies
from graphprune.core.program import Inputs, Program
from graphprune.costs.registry import Counting
from graphprune.extensions import load_installed
from graphprune.foretelling import teller
from graphprune.frontends.onnx import is_onnx
from graphprune.frontends.opening import Opened, keyed, open_model
from graphprune.frontends.torch.inference import undisturbed
from graphprune.frontends.torch.inputs import as_inputs
from graphprune.importance import CRITERIA, Criterion, Loss
from graphprune.importance.reduce import REDUCTIONS
from graphprune.importance.registry import DECIDED
from graphprune.models import function_named, given, load_data
from graphprune.passes.agree import Agree
from graphprune.passes.assume import ASSUMED, Assume
from graphprune.passes.choose_ranks import ChooseRanks
from graphprune.passes.compensate import Compensate
from graphprune.passes.constants import Constants
from graphprune.passes.couple import Couple, couple, releases
from graphprune.passes.dead import Dead
from graphprune.passes.drop_noops import DropNoops
from graphprune.passes.factorise import Factorise
from graphprune.passes.fold_norms import FoldNorms
from graphprune.passes.keep_classes import KeepClasses
from graphprune.passes.lower import Lower
from graphprune.passes.mask import Choose
from graphprune.passes.materialise import Materialise
from graphprune.passes.measure import Measure
from graphprune.passes.merge_branches import MergeBranches
from graphprune.passes.merge_linear import MergeLinear
from graphprune.passes.offer_ranks import OfferRanks
from graphprune.passes.same import Same
from graphprune.passes.score import Score
from graphprune.passes.select import Select
from graphprune.passes.share_zeros import ShareZeros
from graphprune.passes.twins import MergeTwins
from graphprune.passes.verify import Verify
from graphprune.passes.write_zeros import WriteZeros
from graphprune.pictures import read_pictures
from graphprune.pipeline import Asked, Pass, Pipeline, Work
from graphprune.sparsity.request import sparsity
from graphprune.statistics.batches import UNSEEN, held_out

DEFAULT = Pipeline([Constants, Couple, Score, Select, Lower, Verify, Compensate, Agree, Measure])
"""What `shrink` runs."""

FOLDING = (DropNoops, FoldNorms, MergeBranches, MergeLinear)
"""Passes that leave every result as it is and the model smaller; they go before all others."""

COMPACT = Pipeline(
    [
        KeepClasses, Materialise, Assume, *FOLDING, Constants, MergeTwins,
        Couple, Dead, Lower, Verify, Same, Measure,
    ]
)  # fmt: skip
"""What `compact` runs."""


FACTOR = Pipeline([Couple, OfferRanks, ChooseRanks, Lower, Factorise, Agree, Measure])
"""What `factor` runs."""

BOTH = Pipeline(
    [Couple, Score, OfferRanks, ChooseRanks, Lower, Verify, Compensate, Factorise, Agree, Measure]
)
"""What chooses widths and ranks within one budget."""

SPARSE = Pipeline([Couple, ShareZeros, Choose, Lower, WriteZeros])
"""What `sparsify` runs."""

_log = logging.getLogger("graphprune")
_SEEDS = 2**32  # what NumPy's and PyTorch's generators both take

Passes = Iterable["Pass | type[Pass] | str"]


class Budgeting(TypedDict, total=False):
    """How much goes, and where: see `graphprune.plan`."""

    allocation: str
    normalize: str
    ratios: Mapping[Any, float] | None
    limits: Limits | None
    budget: Mapping[Any, float] | None
    round_to: int | str
    keep: Any
    backend: str


class Scoring(TypedDict, total=False):
    """What counts as important: see `graphprune.plan`."""

    importance: str | Criterion
    loss: Loss | None
    reduction: str


class Repairing(TypedDict, total=False):
    """How what is removed is made up for, and from what: see `graphprune.plan`."""

    example_inputs: Any
    data: Any
    compensate: bool | str
    effort: str | float
    verify: bool
    seed: int


class PlanOptions(Budgeting, Scoring, Repairing, total=False):
    """All options of `graphprune.plan`."""

    assume: str | None
    passes: Pipeline | Passes | str | None


class SparsifyOptions(Repairing, total=False):
    """All options of `graphprune.plan_sparsity`."""

    importance: str
    spread: str
    keep: Any


class ShrinkOptions(PlanOptions, total=False):
    """All options of `graphprune.shrink`: those of a plan, and those of several steps."""

    steps: int
    schedule: str
    initial_ratio: float
    callback: Callable[[Any, Any], Any] | None
    state: Any
    log: Any


def check_options(given: Mapping[str, Any], known: type[Any], function: str) -> None:
    """Refuse an option that does not exist, naming the nearest that does.

    Args:
        given: The options by name.
        known: The `TypedDict` that lists those that exist.
        function: Who takes them.

    Raises:
        OptionError: There is no such option.
    """
    names = sorted(known.__annotations__)
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, [*names, "ratio", "of"], 1, 0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"options: {', '.join(names)}"
            raise OptionError(f"{function} has no option {name!r}: {hint}")


def _check_values(options: PlanOptions) -> None:
    """Refuse values that an option cannot have, before the work.

    Raises:
        OptionError: A value is none that could be meant; names the option.
    """
    importance, loss = options.get("importance", "auto"), options.get("loss")
    if not callable(importance) and ":" not in str(importance):
        names = [*DECIDED, *CRITERIA]
        if not isinstance(importance, str) or importance not in names:
            hint = nearest(importance, names)
            raise OptionError(f"no importance criterion {importance!r}: {hint}, or a function")
    if loss is not None and not callable(loss):
        raise OptionError(f"loss is a function (output, labels) -> scalar, not {loss!r}")
    reduction = options.get("reduction", "sum")
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise OptionError(f"no reduction {reduction!r}: {nearest(reduction, REDUCTIONS)}")
    _check_checking(options.get("verify", True), options.get("seed", 0))


def _check_checking(verify: Any, seed: Any) -> None:
    """Refuse what `verify` and `seed` cannot be."""
    if not isinstance(verify, bool):
        raise OptionError(f"verify is True or False, not {verify!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SEEDS:
        raise OptionError(f"seed is a whole number from 0 to 2**32 - 1, not {seed!r}")


@undisturbed
def planned(
    model: Any,
    ratio: float | None,
    of: str | Counting,
    options: PlanOptions,
    whole: Mapping[str, int] | None = None,
    later: Pipeline | None = None,
    points: int | None = 1,
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
    """
    check_options(options, PlanOptions, "plan")
    load_installed()
    passes = options.get("passes")
    pipeline = DEFAULT if passes is None else passes
    pipeline = pipeline if isinstance(pipeline, Pipeline) else Pipeline(pipeline)
    _check_values(options)
    importance, data = options.get("importance", "auto"), options.get("data")
    if isinstance(importance, str) and ":" in importance:
        importance = function_named(importance)
    repair = Options(
        options.get("compensate", "auto"),
        options.get("effort", "auto"),
        seed=options.get("seed", 0),
    )
    inputs, model = as_inputs(options.get("example_inputs")), given(model)
    if isinstance(data, str | os.PathLike):
        data = _loaded(Path(data), model, inputs, repair.samples() + UNSEEN)
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
        assume=_assumed(options.get("assume")),
        call=_call(ratio, of, options),
        released=_released(opened, [*ratios, *limits]),
    )  # fmt: skip
    work = worked(opened, asked, batches, unseen)
    work.pipeline = pipeline
    if work.program.assumed:
        _log.info("inputs assumed, as none were given: %s", work.program.assumed)
    pipeline.decide(work, teller(work, later or pipeline, points))
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
    _check_checking(options.get("verify", True), options.get("seed", 0))
    request = sparsity(
        ratio, pattern, options.get("importance", "auto"), options.get("spread", "auto")
    )
    repair = Options(
        options.get("compensate", "auto"),
        options.get("effort", "auto"),
        seed=options.get("seed", 0),
    )
    inputs = as_inputs(options.get("example_inputs"))
    opened = open_model(given(model), inputs, options.get("data"), repair.samples())
    keep = options.get("keep")
    asked = Asked(
        options=repair.reading(opened.batches) if opened.batches else repair,
        inputs=inputs,
        verify=options.get("verify", True),
        seed=options.get("seed", 0),
        sparsity=replace(request, keep=None if keep is None else opened.patterns(keep, "keep")),
    )
    work = worked(opened, asked)
    work.pipeline = SPARSE
    SPARSE.decide(work)
    return work


def _assumed(assume: Any) -> str:
    """What the caller takes for granted, or nothing."""
    if assume not in (None, *ASSUMED):
        raise OptionError(f"assume is one of {', '.join(map(repr, ASSUMED))}, not {assume!r}")
    return assume or ""


def _call(ratio: float | None, of: str | Counting, options: Mapping[str, Any]) -> str:
    """The call of `plan` in words; `...` stands for what cannot be written down."""
    told = [f"{name}={_word(item)}" for name, item in {"of": of, **options}.items() if _said(item)]
    first = [] if ratio is None else [repr(ratio)]
    return f"graphprune.plan({', '.join(['model', *first, *told])})"


def _loaded(place: Path, model: Any, inputs: Inputs | None, most: int) -> Any:
    """The data that a file, a folder of pictures or a `pkg.mod:factory` stands for."""
    if not place.is_dir():
        return load_data(os.fspath(place), is_onnx(model))
    held = [x for x in pytree.tree_leaves(inputs) if isinstance(x, torch.Tensor) and x.dim() == 4]
    return read_pictures(place, model, most, held[0].shape[-2:] if held else None)


def _said(item: Any) -> bool:
    """Whether an option is worth a word: not where it is left empty."""
    return item is not None and not (isinstance(item, tuple | list | dict) and not item)


def _word(item: Any) -> str:
    short = isinstance(item, str | int | float) or (
        isinstance(item, list | tuple) and all(isinstance(x, str | int | float) for x in item)
    )
    return repr(item) if short else getattr(item, "__name__", "...")


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
