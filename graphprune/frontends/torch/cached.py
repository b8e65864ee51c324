"""cached: a smaller model is called as the original is by default, with a cache.

Models are captured without their cache, which would keep the widths of all that it holds. The code
that makes one may take one width for another that was as long: these stay equal, where that can be.
Or it takes sizes from attributes that nothing else reads: those that have the length of one of
their module's weights are tried, and count where the model then returns what it does without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.core.cuts import Cuts
from graphprune.core.groups import Group
from graphprune.core.program import Inputs
from graphprune.core.relations import Mismatch
from graphprune.engine.state import preserved, quiet
from graphprune.frontends.torch.attributes import apply_edits, lengths_held
from graphprune.frontends.torch.blank import without_values
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.rebuild import rebuild
from graphprune.frontends.torch.rejects import rejects
from graphprune.frontends.torch.survey import Survey
from graphprune.frontends.torch.tables import tables_preserved
from graphprune.frontends.torch.tagged import Place, container, get
from graphprune.frontends.torch.trials import Values, write

_NAME = "use_cache"
_RTOL, _ATOL = 1e-3, 1e-4  # single precision, in another order


def by_default(model: nn.Module, inputs: Inputs) -> Inputs | None:
    """Inputs that leave the cache to a model, if it makes one by itself; else None."""
    args, kwargs = inputs
    if kwargs.get(_NAME) is not False or getattr(model.config, _NAME, None) is not True:
        return None
    return args, {name: given for name, given in kwargs.items() if name != _NAME}


def fails_cached(model: nn.Module, small: nn.Module, inputs: Inputs) -> str | None:
    """Why a smaller model does not run with its cache, where the original does."""
    given = by_default(model, inputs)
    if given is None:
        return None
    why = rejects(small, given)
    return why if why and rejects(model, given) is None else None


def unequal(captured: CapturedModule, found: Survey, values: Values) -> list[Mismatch] | None:
    """Lengths that were equal and are so no more, where a smaller model fails with its cache.

    None where there are no such lengths or no cache, so that nothing was learned.

    Args:
        captured: The captured model.
        found: What its code can express.
        values: New values of its config's entries.
    """
    cuts, widest = found.cuts, dict[int, Group]()
    for group in sorted(cuts.deps.groups, key=lambda g: -len(g.members)):
        widest.setdefault(group.size, group)
    left = {group: len(cuts.keep.get(group.axis, range(group.size))) for group in cuts.deps.groups}
    apart = [
        Mismatch((group.axis,), left[widest[group.size]], (widest[group.size].axis,))
        for group in cuts.deps.groups
        if left[group] != left[widest[group.size]]
    ]
    given = by_default(captured.model, captured.inputs) if apart else None
    if given is None:
        return None
    small = rebuild(captured, cuts, blank=True)
    apply_edits(small, found.edits)
    write(small.config, values)
    if not _fails_blank(captured, small, given):
        return []
    if _fails_blank(captured, rebuild(captured, Cuts(cuts.deps, {}), blank=True), given):
        return None
    for edits in _tried(captured, cuts):
        before = _set(small, edits)
        if not _fails_blank(captured, small, given):
            return []
        apply_edits(small, before)
    return apart


def _fails_blank(captured: CapturedModule, model: nn.Module, inputs: Inputs) -> bool:
    """Whether a model without values does not run on inputs without values."""
    without, blank = without_values(captured)
    args, kwargs = pytree.tree_map_only(torch.Tensor, blank, inputs)
    try:
        with preserved(model), tables_preserved(model), torch.no_grad(), quiet(), without:
            model.eval()
            model(*args, **kwargs)
    except Exception:  # whatever the caller's code raises
        return True
    return False


def cache_edits(
    captured: CapturedModule, cuts: Cuts, small: nn.Module
) -> Mapping[Place, int] | None:
    """Set the attributes of a smaller model that its cache takes sizes from, if they are found."""
    given = by_default(captured.model, captured.inputs)
    if given is None:
        return None
    for edits in _tried(captured, cuts):
        before = _set(small, edits)
        if _same(small, captured.inputs, given):
            return edits
        apply_edits(small, before)
    return None


def _set(model: nn.Module, edits: Mapping[Place, int]) -> dict[Place, int]:
    """Set attributes; what they were before."""
    before = {place: get(container(model, place), place) for place in edits}
    apply_edits(model, edits)
    return before


def _tried(captured: CapturedModule, cuts: Cuts) -> Iterator[dict[Place, int]]:
    """New values of attributes, those of one name at once."""
    named: dict[str, dict[Place, list[int]]] = {}
    for place, found in lengths_held(captured, cuts).items():
        named.setdefault(place[1], {})[place] = found
    for held in named.values():
        for number in range(max(map(len, held.values()))):
            yield {place: found[min(number, len(found) - 1)] for place, found in held.items()}


def _same(model: nn.Module, one: Inputs, other: Inputs) -> bool:
    """Whether a model returns the same of both, as far as both return it."""
    results = []
    try:
        with preserved(model), quiet(), torch.no_grad():
            model.eval()
            for args, kwargs in pytree.tree_map_only(torch.Tensor, torch.clone, (one, other)):
                results.append(pytree.tree_leaves(model(*args, **kwargs))[0])
    except Exception:  # whatever the caller's code raises
        return False
    first, second = results
    return first.shape == second.shape and torch.allclose(first, second, _RTOL, _ATOL)
