"""Models that are described by a config object, as those of Hugging Face.

The smaller model is reloaded through its config, so the config's sizes are to be the new ones.
Which entry holds which size is found by trying: an entry may take the new length of any dimension
that had its value, one that is None (`n_inner`, which is then four times the width, or `head_dim`)
or a factor (`mlp_ratio`) what the shapes that are still wrong ask for. What counts is that the
class, built anew from the config as it is written and read, has the shapes of the smaller model;
of configs that give the same shapes the one whose modules hold the same numbers (heads, scales) is
taken.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import isclose
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.axes import length
from graphprune.core.cuts import Cuts
from graphprune.core.indices import kept_length
from graphprune.core.relations import Mismatch
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.skeleton import Numbers, derived, numbers, parts, skeleton
from graphprune.frontends.torch.tagged import Place
from graphprune.frontends.torch.trials import (
    Entry,
    Key,
    Outcome,
    Shapes,
    Trials,
    Values,
    changed,
    entries,
    keys_of,
    shapes_of,
    write,
)

_ROUNDS = 3  # over all entries
_SECONDS = 5.0  # of this thread, for all searches of a plan; what is not found by then is told
_LEAST = 0.5  # seconds for each
UNTOLD = (
    "the config cannot tell the new widths: to load the weights again, keep the plan with them "
    "(plan.save), make the original model from its config, and call "
    "graphprune.load_plan(path).apply(model).load_state_dict(weights)"
)
_HOPELESS = 1 << 30  # wrong shapes of a config that the class refuses


def has_config(model: nn.Module) -> bool:
    """Whether a model is saved and reloaded through a config that holds its sizes."""
    return hasattr(model, "save_pretrained") and hasattr(getattr(model, "config", None), "to_dict")


@dataclass(frozen=True)
class Fit:
    """How well a config can describe a narrowed model.

    Attributes:
        values: New values of its entries.
        mismatches: Lengths that the class takes for one another, and those that it derives other
            numbers from; none where the config fits.
        shaped: Whether the class, built from the config, has the shapes of the narrowed model.
        trials: What was learned of the class, for the next search.
        seconds: What this search took, and those before it for the same plan.
    """

    values: Values
    mismatches: list[Mismatch]
    shaped: bool
    trials: Trials
    seconds: float = 0.0

    @property
    def fits(self) -> bool:
        """Whether the class has the shapes, and the same numbers as far as can be seen."""
        return self.shaped and not self.mismatches


def fit_config(
    model: nn.Module, cuts: Cuts, edits: Mapping[Place, int], before: Fit | None = None
) -> Fit:
    """Look for a config that describes a narrowed model.

    Args:
        model: The original model, which has a config.
        cuts: What was narrowed.
        edits: New values of the modules' attributes.
        before: What was found for another choice of the same plan, if any.
    """
    trials = before.trials if before else Trials(model)
    spent = before.seconds if before else 0.0
    if spent > _SECONDS:
        return Fit({}, [], False, trials, spent)
    start = time.thread_time()
    found = _fitted(model, cuts, edits, trials, max(_SECONDS - spent, _LEAST))
    return replace(found, seconds=spent + time.thread_time() - start)


def _fitted(
    model: nn.Module, cuts: Cuts, edits: Mapping[Place, int], trials: Trials, seconds: float
) -> Fit:
    kept = {name: cuts.kept(v) for v in cuts.weights for name in (v.name, *v.aliases)}
    shapes = {
        name: tuple(
            n if k is None else len(k)
            for n, k in zip(x.shape, kept.get(name, [None] * x.dim()), strict=True)
        )
        for name, x in model.state_dict().items()
    }
    choices = {
        entry: found
        for entry, value in _integers(model.config)
        if len(found := [*dict.fromkeys([*_lengths(cuts, value), value])]) > 1
    }
    held = numbers(model) | {(p, a): n for (p, a, i), n in edits.items() if i is None}
    search = _Search(trials, shapes, held, seconds)
    values = search.run(choices)
    wrong = search.wrong(values)
    if wrong:
        values = search.derived(values, _pairs(wrong, shapes), _runs(wrong, cuts))
        wrong = search.wrong(values)
    if wrong is None or wrong:
        return Fit(values, list(_mismatches(wrong, shapes, cuts)), False, trials)
    built = trials.built(values, skeleton)
    return Fit(values, list(derived(model, built, cuts)), True, trials)


def describe(model: nn.Module, values: Values, inputs: Any) -> bool:
    """Give a narrowed model's config its new sizes, if the class then computes the same.

    Numbers that the class derives from its config (softmax scales, rotary frequencies) are not
    among the shapes, so the class is built anew and run once.

    Args:
        model: The narrowed model; its config is modified.
        values: New values of the config's entries.
        inputs: Example inputs: positional and keyword arguments.
    """
    try:
        with quiet(), torch.no_grad():
            built = type(model)(changed(model.config, values))
            built.load_state_dict(model.state_dict())
            built.to(next(model.parameters()).device, next(model.parameters()).dtype).eval()
            with preserved(model):
                model.eval()
                results = [
                    [x for x in pytree.tree_leaves(m(*inputs[0], **inputs[1])) if _is_float(x)]
                    for m in (model, built)
                ]
    except Exception:
        return False
    if not all(torch.allclose(a, b, 1e-3, 1e-4) for a, b in zip(*results, strict=True)):
        return False
    write(model.config, values)
    return True


def _is_float(x: Any) -> bool:
    """Whether a result is a floating-point tensor."""
    return isinstance(x, torch.Tensor) and x.is_floating_point()


class _Search:
    """Looks for the values with which a class has the shapes and numbers that are wanted."""

    def __init__(self, trials: Trials, shapes: Shapes, held: Numbers, seconds: float) -> None:
        self._trials = trials
        self._shapes = keys_of(shapes)
        self._held = dict(held)
        trials.watch(held)
        self._known: dict[int, dict[Key, int | None]] = {}
        self._until = time.thread_time() + seconds

    def run(self, choices: Mapping[Entry, list[int]]) -> Values:
        """The values with which most shapes are as wanted, entry by entry."""
        starts: list[Values] = [
            self._guessed(choices),
            {e: found[0] for e, found in choices.items()},
            {},
        ]
        _, best = min((self._count(s), i) for i, s in enumerate(starts))
        tried = [(entry, value) for entry, found in choices.items() for value in found]
        return self._needed(self._improved(starts[best], tried, _ROUNDS))

    def _guessed(self, choices: Mapping[Entry, list[int]]) -> Values:
        """The values that explain most of what is wrong with the original config, each alone."""
        wrong = self._wrong({}) or {}
        out: dict[Entry, float] = {}
        for entry, found in choices.items():
            if not self._trials.known(entry) and time.thread_time() < self._until:
                self._trials.learn(entry, {}, {entry: found[0]})
            if self._trials.known(entry):
                votes = [self._trials.helps(entry, {}, value, wrong) for value in found]
                if max(votes):
                    out[entry] = found[votes.index(max(votes))]
        return out

    def _needed(self, values: Values) -> Values:
        """The values that something depends on: equal lengths are no evidence."""
        count = self._count(values)
        for entry in list(values):
            trial = {e: value for e, value in values.items() if e != entry}
            if self._count(trial) <= count:
                values = trial
        return values

    def derived(
        self, values: Values, pairs: Collection[tuple[int, int]], lengths: Collection[int]
    ) -> Values:
        """The same, with entries that are factors of other sizes, that are None, or that lack.

        Args:
            values: What is known of the entries.
            pairs: Lengths that are wrong, and what they should be.
            lengths: What entries without a value may be: also parts of what is wrong.
        """
        tried: list[tuple[Entry, float]] = []
        for entry, held in entries(self._trials.config):
            if entry[:2] not in self._trials.reads.found:
                continue
            if held is None:
                wanted = dict.fromkeys([*(length for _, length in pairs), *lengths])
                tried += [(entry, length) for length in wanted]
            elif type(held) is float and held >= 1:
                tried += [(entry, held * wanted / given) for given, wanted in pairs if given]
        lacking = self._trials.reads.lacking
        tried += [((path, name, None), n) for path, name in lacking for n in lengths]
        return self._improved(values, tried, 1)

    def _improved(
        self, values: Values, tried: Iterable[tuple[Entry, float]], rounds: int
    ) -> Values:
        """Take single values that bring the count of what is wrong down, while any does."""
        count = self._count(values)
        for _ in range(rounds):
            before = count
            for entry, value in tried:
                if count == (0, 0) or time.thread_time() > self._until:
                    return values
                if values.get(entry) == value or (count[0] == 0 and entry not in values):
                    continue  # once the lengths are right, only what was changed is in doubt
                trial = {**values, entry: value}
                if self._may_help(entry, values, value):
                    self._trials.learn(entry, values, trial)
                    if (found := self._count(trial)) < count:
                        count, values = found, trial
            if count == before:
                break
        return values

    def _may_help(self, entry: Entry, values: Values, value: float) -> bool:
        """Whether a value seems to bring something right, or nothing is known of the entry."""
        if self._trials.refused(entry):
            return False
        wrong = self._wrong(values) if self._trials.known(entry) else None
        return wrong is None or self._trials.helps(entry, values, value, wrong) > 0

    def _wrong(self, values: Values) -> dict[Key, int | None] | None:
        """Lengths as they should be, and numbers that differ; None where the class refuses."""
        outcome = self._trials.outcome(values)
        if outcome is None:
            return None
        if id(outcome) not in self._known:  # the trials hold on to it
            self._known[id(outcome)] = self._compared(outcome)
        return self._known[id(outcome)]

    def _compared(self, outcome: Outcome) -> dict[Key, int | None]:
        wrong: dict[Key, int | None] = dict.fromkeys(outcome.lengths.keys() - self._shapes.keys())
        wrong |= {k: n for k, n in self._shapes.items() if outcome.lengths.get(k) != n}
        numbers = outcome.numbers
        differ = (
            k for k, n in self._held.items() if not isclose(numbers.get(k, n), n, rel_tol=1e-6)
        )
        return wrong | dict.fromkeys(differ)

    def _count(self, values: Values) -> tuple[int, int]:
        """How many lengths, and how many numbers of the modules, are not as wanted."""
        wrong = self._wrong(values)
        if wrong is None:
            return _HOPELESS, 0
        lengths = sum(type(key[1]) is int for key in wrong)
        return lengths, len(wrong) - lengths

    def wrong(self, values: Values) -> Shapes | None:
        """Shapes that differ from the wanted ones; None where the class refuses the config."""
        outcome = self._trials.outcome(values)
        if outcome is None:
            return None
        given = shapes_of(outcome.lengths)
        wanted = shapes_of(self._shapes)
        return {name: shape for name, shape in given.items() if shape != wanted[name]}


def _pairs(wrong: Shapes, shapes: Shapes) -> Collection[tuple[int, int]]:
    """Lengths that are wrong, and what they should be."""
    return dict.fromkeys(
        (given, wanted)
        for name, shape in wrong.items()
        for given, wanted in zip(shape, shapes[name], strict=False)
        if given != wanted
    )


def _runs(wrong: Shapes, cuts: Cuts) -> Collection[int]:
    """New lengths of the dimensions of such weights, and of runs of factors in them."""
    counts = {axis: len(kept) for axis, kept in cuts.keep.items()}
    values = [v for v in cuts.deps.source.weights.values() if v.name in wrong]
    dims = {part for v in values for dim in cuts.deps.dims[v] for part in parts(dim)}
    return sorted({kept_length(dim, counts) for dim in dims})


def _mismatches(wrong: Shapes | None, shapes: Shapes, cuts: Cuts) -> Iterator[Mismatch]:
    by_name = {name: v for v in cuts.deps.source.weights.values() for name in (v.name, *v.aliases)}
    for name, given in (wrong or {}).items():
        value = by_name.get(name)
        if value is None or len(given) != len(shapes[name]):
            continue
        dims = zip(cuts.deps.dims[value], given, shapes[name], strict=True)
        yield from (Mismatch(dim, have) for dim, have, wanted in dims if have != wanted)


def _integers(config: Any) -> Iterator[tuple[Entry, int]]:
    """Integers above one in a config and in those that it holds."""
    for entry, held in entries(config):
        if type(held) is int and held > 1:
            yield entry, held


def _lengths(cuts: Cuts, value: int) -> Iterator[int]:
    """New lengths of what had this length: dimensions, segments, runs of factors."""
    counts = {axis: len(kept) for axis, kept in cuts.keep.items()}
    touched = (d for v in cuts.weights for d in cuts.deps.dims[v] if cuts.touches(d))
    for dim in dict.fromkeys(touched):
        yield from (kept_length(part, counts) for part in parts(dim) if length(part) == value)
