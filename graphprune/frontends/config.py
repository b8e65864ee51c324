"""Models that are described by a config object, as those of Hugging Face.

The smaller model is reloaded through its config, so the config's sizes are to be the new ones.
Which entry holds which size is found by trying: an entry may take the new length of any dimension
that had its value, one that is None (`n_inner`, which is then four times the width) or a factor
(`mlp_ratio`) what the shapes that are still wrong ask for. What counts is that the class, built
anew from the config, has the shapes of the smaller model.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.axes import Axis, Dim, leaves, length, segments
from graphprune.frontends.torch import preserved, quiet
from graphprune.indices import kept_length
from graphprune.passes.narrow import Cuts
from graphprune.passes.tie import Mismatch

Entry: TypeAlias = "tuple[tuple[str, ...], str, int | None]"
"""Names of the configs on the way, attribute, index in a list or None."""
Shapes: TypeAlias = "dict[str, tuple[int, ...]]"

_ROUNDS = 3  # over all entries
_SECONDS = 5.0  # for the search; what is not found by then is told
_HOPELESS = 1 << 30  # wrong shapes of a config that the class refuses


def has_config(model: nn.Module) -> bool:
    """Whether a model is saved and reloaded through a config that holds its sizes."""
    return hasattr(model, "save_pretrained") and hasattr(getattr(model, "config", None), "to_dict")


@dataclass(frozen=True)
class Fit:
    """How well a config can describe a narrowed model.

    Attributes:
        values: New values of its entries.
        mismatches: Lengths that the class takes for one another; none where the config fits.
        fits: Whether the class, built from the config, has the shapes of the narrowed model.
    """

    values: Mapping[Entry, float]
    mismatches: list[Mismatch]
    fits: bool


def fit_config(model: nn.Module, cuts: Cuts) -> Fit:
    """Look for a config that describes a narrowed model.

    Args:
        model: The original model, which has a config.
        cuts: What was narrowed.
    """
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
        for entry, value in _entries(model.config)
        if len(found := [*dict.fromkeys([*_lengths(cuts, value), value])]) > 1
    }
    search = _Search(type(model), model.config, shapes)
    values = search.run(choices)
    wrong = search.wrong(values)
    if wrong:
        values = search.derived(values, wrong)
        wrong = search.wrong(values)
    return Fit(values, list(_mismatches(wrong, shapes, cuts)), wrong is not None and not wrong)


def describe(model: nn.Module, values: Mapping[Entry, float], inputs: Any) -> bool:
    """Give a narrowed model's config its new sizes, if the class then computes the same.

    Numbers that the class derives from its config (softmax scales, rotary frequencies) are not
    among the shapes, so the class is built anew and run once.

    Args:
        model: The narrowed model; its config is modified.
        values: New values of the config's entries.
        inputs: Example inputs: positional and keyword arguments.
    """
    config = copy.deepcopy(model.config)
    _write(config, values)
    try:
        with quiet(), torch.no_grad():
            built = type(model)(config)
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
    _write(model.config, values)
    return True


def _is_float(x: Any) -> bool:
    """Whether a result is a floating-point tensor."""
    return isinstance(x, torch.Tensor) and x.is_floating_point()


class _Search:
    """Tries configs by building the class on the meta device, where tensors take no memory."""

    def __init__(self, kind: type, config: Any, shapes: Shapes) -> None:
        self._kind = kind
        self._config = config
        self._shapes = shapes
        self._until = time.monotonic() + _SECONDS

    def run(self, choices: Mapping[Entry, list[int]]) -> dict[Entry, float]:
        """The values with which most shapes are as wanted, entry by entry."""
        starts: list[dict[Entry, float]] = [{e: found[0] for e, found in choices.items()}, {}]
        _, best = min((self._count(s), i) for i, s in enumerate(starts))
        trials = [(entry, value) for entry, found in choices.items() for value in found]
        return self._improved(starts[best], trials, _ROUNDS)

    def derived(self, values: dict[Entry, float], wrong: Shapes) -> dict[Entry, float]:
        """The same, with entries that are None or factors of other sizes."""
        pairs = dict.fromkeys(
            (given, wanted)
            for name, shape in wrong.items()
            for given, wanted in zip(shape, self._shapes[name], strict=False)
            if given != wanted
        )
        trials: list[tuple[Entry, float]] = []
        for entry, held in _held(self._config):
            if held is None:
                trials += [(entry, wanted) for wanted in dict.fromkeys(w for _, w in pairs)]
            elif type(held) is float and held >= 1:
                trials += [(entry, held * wanted / given) for given, wanted in pairs]
        return self._improved(values, trials, 1)

    def _improved(
        self, values: dict[Entry, float], trials: Iterable[tuple[Entry, float]], rounds: int
    ) -> dict[Entry, float]:
        """Take single values that bring the count of wrong shapes down, while any does."""
        count = self._count(values)
        for _ in range(rounds):
            before = count
            for entry, value in trials:
                if count == 0 or time.monotonic() > self._until:
                    return values
                trial = {**values, entry: value}
                if (found := self._count(trial)) < count:
                    count, values = found, trial
            if count == before:
                break
        return values

    def _count(self, values: Mapping[Entry, float]) -> int:
        wrong = self.wrong(values)
        return _HOPELESS if wrong is None else len(wrong)

    def wrong(self, values: Mapping[Entry, float]) -> Shapes | None:
        """Shapes that differ from the wanted ones; None where the class refuses the config."""
        changed = copy.deepcopy(self._config)
        _write(changed, values)
        try:
            with torch.device("meta"), quiet():
                built = self._kind(changed).state_dict()
        except Exception:
            return None
        if built.keys() != self._shapes.keys():
            return None
        given = {name: tuple(x.shape) for name, x in built.items()}
        return {name: shape for name, shape in given.items() if shape != self._shapes[name]}


def _mismatches(wrong: Shapes | None, shapes: Shapes, cuts: Cuts) -> Iterator[Mismatch]:
    by_name = {name: v for v in cuts.deps.source.weights.values() for name in (v.name, *v.aliases)}
    for name, given in (wrong or {}).items():
        value = by_name.get(name)
        if value is None or len(given) != len(shapes[name]):
            continue
        dims = zip(cuts.deps.dims[value], given, shapes[name], strict=True)
        yield from (Mismatch(dim, have) for dim, have, wanted in dims if have != wanted)


def _entries(config: Any) -> Iterator[tuple[Entry, int]]:
    """Integers above one in a config and in those that it holds."""
    for entry, held in _held(config):
        if type(held) is int and held > 1:
            yield entry, held


def _held(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[Entry, Any]]:
    """The entries of a config, those of configs that it holds, and elements of lists."""
    for name, held in vars(config).items():
        if name.startswith("_") or name.endswith("_id"):
            continue
        if isinstance(held, list | tuple):
            yield from (((path, name, i), x) for i, x in enumerate(held))
        elif hasattr(held, "to_dict"):
            yield from _held(held, (*path, name))
        else:
            yield (path, name, None), held


def _write(config: Any, values: Mapping[Entry, float]) -> None:
    for (path, name, index), value in values.items():
        holder = config
        for step in path:
            holder = vars(holder)[step]
        if index is None:
            vars(holder)[name] = value
        else:
            items = list(vars(holder)[name])
            items[index] = value
            vars(holder)[name] = type(vars(holder)[name])(items)


def _lengths(cuts: Cuts, value: int) -> Iterator[int]:
    """New lengths of what had this length: dimensions, segments, runs of factors."""
    counts = {axis: len(kept) for axis, kept in cuts.keep.items()}
    for dim in {dim for v in cuts.weights for dim in cuts.deps.dims[v] if cuts.touches(dim)}:
        yield from (kept_length(part, counts) for part in _parts(dim) if length(part) == value)


def _parts(dim: Dim) -> Iterator[Dim]:
    factors: list[Axis] = leaves(dim)
    for start in range(len(factors)):
        for stop in range(start + 1, len(factors) + 1):
            yield tuple(factors[start:stop])
    for axis in factors:
        for part in segments(axis) if axis.parts is not None else ():
            yield from _parts(part)
