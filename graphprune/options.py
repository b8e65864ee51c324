"""Options by name: which there are, what each may be, and a call in words."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypedDict

from graphprune.choice.request import Limits
from graphprune.core.errors import OptionError, nearest
from graphprune.costs.registry import Counting
from graphprune.importance import CRITERIA, Criterion, Loss
from graphprune.importance.reduce import REDUCTIONS
from graphprune.importance.registry import DECIDED
from graphprune.passes.assume import ASSUMED
from graphprune.pipeline import Pass, Pipeline

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


def check_values(options: PlanOptions) -> None:
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
    check_checking(options.get("verify", True), options.get("seed", 0))


def check_checking(verify: Any, seed: Any) -> None:
    """Refuse what `verify` and `seed` cannot be."""
    if not isinstance(verify, bool):
        raise OptionError(f"verify is True or False, not {verify!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SEEDS:
        raise OptionError(f"seed is a whole number from 0 to 2**32 - 1, not {seed!r}")


def assumed(assume: Any) -> str:
    """What the caller takes for granted, or nothing."""
    if assume not in (None, *ASSUMED):
        raise OptionError(f"assume is one of {', '.join(map(repr, ASSUMED))}, not {assume!r}")
    return assume or ""


def call_of(ratio: float | None, of: str | Counting, options: Mapping[str, Any]) -> str:
    """The call of `plan` in words; `...` stands for what cannot be written down."""
    told = [f"{name}={_word(item)}" for name, item in {"of": of, **options}.items() if _said(item)]
    first = [] if ratio is None else [repr(ratio)]
    return f"graphprune.plan({', '.join(['model', *first, *told])})"


def _said(item: Any) -> bool:
    """Whether an option is worth a word: not where it is left empty."""
    return item is not None and not (isinstance(item, tuple | list | dict) and not item)


def _word(item: Any) -> str:
    short = isinstance(item, str | int | float) or (
        isinstance(item, list | tuple) and all(isinstance(x, str | int | float) for x in item)
    )
    return repr(item) if short else getattr(item, "__name__", "...")
