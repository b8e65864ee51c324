"""Cuts: what every weight and every shape attribute becomes once indices are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphprune.core.axes import Axis, Dim, leaves, length
from graphprune.core.effect import SHARE, FromEnd
from graphprune.core.graph import Op, Value
from graphprune.core.groups import Dependencies
from graphprune.core.indices import Indices, kept_indices, kept_length

Kept = list["Indices | None"]


@dataclass
class Cuts:
    """A choice of indices, applied to everything that holds them.

    Attributes:
        keep: Indices that stay, for each axis that loses some.
        weights: For each weight that shrinks, the positions kept in each dimension (None: all).
        attrs: For each operation that changes, its changed attributes.
    """

    deps: Dependencies
    keep: Mapping[Axis, Indices]
    weights: dict[Value, Kept] = field(default_factory=dict)
    attrs: dict[Op, dict[str, Any]] = field(default_factory=dict)

    def kept(self, value: Value) -> Kept:
        """Positions kept in each dimension of any value of the graph; None where all are."""
        return [kept_indices(dim, self.keep) for dim in self.deps.dims[value]]

    def touches(self, dim: Dim) -> bool:
        """Whether a dimension loses indices."""
        return kept_indices(dim, self.keep) is not None


def narrow(deps: Dependencies, keep: Mapping[Axis, Indices]) -> Cuts:
    """Work out the new weights and attributes.

    Args:
        deps: The analysis.
        keep: Sorted indices that stay, for each axis that loses some.
    """
    cuts = Cuts(deps, keep)
    counts = {axis: len(kept) for axis, kept in keep.items()}
    for value in deps.source.weights.values():
        kept = cuts.kept(value)
        if any(indices is not None for indices in kept):
            cuts.weights[value] = kept
    for op in deps.effects:
        changed = attributes(deps, op, counts)
        if changed:
            cuts.attrs[op] = changed
    return cuts


def attributes(deps: Dependencies, op: Op, counts: Mapping[Axis, int]) -> dict[str, Any]:
    """The attributes of one operation that change when each axis keeps so many indices."""
    effect = deps.effects[op]
    changed = {}
    for attr, size in effect.sizes.items():
        present = op.attrs.get(attr)
        new = _new_size(present, size, counts)
        if new is not None and (attr in op.attrs or attr == "split_sizes"):
            changed[attr] = new
    for attr, (value, dim) in effect.pins.items():
        if op.attrs.get(attr) is None and kept_length(dim, counts) != length(dim):
            changed[attr] = value
    share = _share(effect.averages, counts)
    if share != 1:
        changed[SHARE] = share
    return changed


def _share(dims: Sequence[Dim], counts: Mapping[Axis, int]) -> float:
    """The share of an average's terms that stays.

    Locked axes have no part in it: theirs is another length where another number of samples is.
    """
    free = tuple(axis for dim in dims for axis in leaves(dim) if axis.reason is None)
    return kept_length(free, counts) / length(free)


def _new_size(present: Any, size: Any, counts: Mapping[Axis, int]) -> Any:
    """The attribute's new value, or None where it stays as it is."""
    if not isinstance(size, list):
        new = _length(size, counts)
        return None if new == _length(size, {}) else new
    lengths = [None if dim is None else _length(dim, {}) for dim in size]
    old = list(present) if isinstance(present, list | tuple) else lengths
    out = [
        entry if dim is None or entry == -1 or _length(dim, counts) == now else _length(dim, counts)
        for entry, dim, now in zip(old, size, lengths, strict=True)
    ]
    return out if out != old else None


def _length(size: Dim, counts: Mapping[Axis, int]) -> int:
    """The number that stands for a length, or for a position counted from the end."""
    new = kept_length(size, counts)
    return -new if isinstance(size, FromEnd) else new
