"""survey: which attributes need new values, and which modules cannot express the new widths.

Guided passes run on a copy of the model whose tensors have the narrowed shapes and take no
memory, until no attribute changes any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from graphprune.core.axes import Dim, length
from graphprune.core.cuts import Cuts
from graphprune.core.effect import SHARE
from graphprune.core.graph import Op
from graphprune.core.relations import Mismatch
from graphprune.frontends.torch.attributes import apply_edits, described
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.findings import Findings
from graphprune.frontends.torch.fold import Fold
from graphprune.frontends.torch.guide import guide
from graphprune.frontends.torch.rebuild import rebuild
from graphprune.frontends.torch.scale import find_folds, fold_numbers
from graphprune.frontends.torch.tagged import Place, container, get


@dataclass
class Survey:
    """What a model's own code can express.

    Attributes:
        cuts: The narrowed graph, without the scales that folding makes unnecessary.
        folds: Scales to fold into weights.
        edits: Attributes with new values.
        offenders: Paths of modules whose code cannot express the new widths, with the reason.
        mismatches: Lengths that the code took for others.
        original: Every module call of the original, where it was needed.
        guessing: Whether guesses of attributes were as good as none where modules failed; None
            where only one way was tried.
        follows: Whether the weights alone decide what the code computes: it takes no numbers.
    """

    cuts: Cuts
    folds: list[Fold] = field(default_factory=list)
    edits: dict[Place, int] = field(default_factory=dict)
    offenders: dict[str, str] = field(default_factory=dict)
    mismatches: list[Mismatch] = field(default_factory=list)
    original: Findings | None = None
    guessing: bool | None = None
    follows: bool = False


class _NotOnMetaError(Exception):
    """The model's code needs more than meta tensors, as its original turned out to do."""

    def __init__(self, original: Findings) -> None:
        super().__init__()
        self.original = original


def survey(
    captured: CapturedModule,
    cuts: Cuts,
    fold: bool = True,
    original: Findings | None = None,
    guessing: bool | None = None,
) -> Survey:
    """Find out what a model's code can express.

    Args:
        captured: The captured model.
        cuts: The narrowed graph.
        fold: Whether scales may be folded into weights; if not, attention whose scale depends
            on a length that changes counts as an offender.
        original: Findings on the original model, if there are any yet.
        guessing: Whether to start with guesses of attributes; both ways are tried where not given
            and modules fail.
    """
    try:
        return _survey(captured, cuts, fold, original, guessing)
    except _NotOnMetaError as error:
        return _survey(captured, cuts, fold, error.original, guessing)


def _survey(
    captured: CapturedModule,
    cuts: Cuts,
    fold: bool,
    original: Findings | None,
    guessing: bool | None,
) -> Survey:
    out = Survey(cuts, original=original)
    if fold:
        out.folds, out.cuts = find_folds(captured, cuts)
    guesses = described(captured, out.cuts)
    if not any(_takes_lengths(op, captured, out.cuts) for op in captured.graph.ops):
        out.edits = guesses  # widths follow from the weights alone
        out.follows = True
        return out
    model = rebuild(captured, out.cuts, blank=True)
    first = _settle(captured, out, model, {} if guessing is False else guesses)
    if fold and first.numbers:
        folds, out.cuts = fold_numbers(captured, out.cuts, first.numbers)
        if folds:
            out.folds += folds
            first = _settle(captured, out, model, out.edits)
    if first.offenders and guesses and guessing is None:
        # Attributes that agree with a module's weights are set first; where modules fail all
        # the same, it is tried without them, and the better outcome counts.
        kept = out.edits
        apply_edits(model, {p: get(container(captured.model, p), p) for p in kept})
        second = _settle(captured, out, model, {})
        out.guessing = len(second.offenders) >= len(first.offenders)
        if not out.guessing:
            first = second
        else:
            out.edits = kept
    out.offenders, out.mismatches = first.offenders, first.mismatches
    return out


def _takes_lengths(op: Op, captured: CapturedModule, cuts: Cuts) -> bool:
    """Whether Python code may give an operation a number that depends on a width."""
    if op.module in captured.layers:
        return False
    effect = cuts.deps.effects[op]
    made = op.type.startswith("aten.lift_fresh")
    known = effect.sizes or effect.pins or SHARE in cuts.attrs.get(op, {})
    return bool(known or made or any(map(_is_number, op.attrs.items())))


def _is_number(attr: tuple[str, Any]) -> bool:
    """Whether an attribute may be a number that code takes from a width."""
    name, given = attr
    if "dim" in name or isinstance(given, bool):
        return False
    return isinstance(given, float) or (isinstance(given, int) and abs(given) > 1)


def calls_of(captured: CapturedModule, found: Survey) -> Findings:
    """Every module call of the original model, in terms of the graph's values."""
    if found.original is None:
        found.original = _calls(captured, Cuts(found.cuts.deps, {}))
    return found.original


def _calls(captured: CapturedModule, nothing: Cuts) -> Findings:
    if captured.on_meta:
        try:
            return guide(captured, rebuild(captured, nothing, blank=True), nothing)
        except Exception:
            captured.on_meta = False
    try:
        return guide(captured, captured.model, nothing)
    except Exception:  # it ran for real, but not on fake tensors: nothing is known of its calls
        return Findings()


def _settle(
    captured: CapturedModule, out: Survey, model: nn.Module, edits: dict[Place, int]
) -> Findings:
    """Guided passes until no attribute changes any more."""
    out.edits = dict(edits)
    ones: dict[Place, Dim] = {}
    new: dict[Place, int] = {}
    for _ in range(3):
        apply_edits(model, out.edits)
        found = _guided(captured, out, model)
        ones |= found.ones
        new = {p: value for p, value in found.edits.items() if out.edits.get(p) != value}
        if not new:
            break
        out.edits.update(new)
    for path, attr, _index in new:
        found.offenders.setdefault(path, f"{attr} would need two values at once")
    _single(captured, out, found, ones)
    return found


def _single(
    captured: CapturedModule, out: Survey, found: Findings, ones: Mapping[Place, Dim]
) -> None:
    """Keep counts that fell to one where the code then fails, or has a branch for one."""
    if not ones:
        return
    known = calls_of(captured, out)
    for (path, attr, _), dim in ones.items():
        before, after = ([c.counters for c in held.calls[path]] for held in (known, found))
        if before and before != after:
            found.offenders.setdefault(path, f"another branch is taken where {attr} is one")
        if path in found.offenders:
            found.mismatches.append(Mismatch(dim, length(dim), ()))


def _guided(captured: CapturedModule, out: Survey, model: nn.Module) -> Findings:
    on_meta = captured.on_meta
    if out.original is None:
        try:
            return guide(captured, model, out.cuts)
        except Exception:  # once more, stepping over what fails
            pass
    known = calls_of(captured, out)
    if captured.on_meta != on_meta:
        raise _NotOnMetaError(known)
    return guide(captured, model, out.cuts, known)
