"""twins: a channel that is a multiple of another is read as that other.

Where channel i of x is f times channel j for every input, `W x` is the same with `f W[:, i]` added
to `W[:, j]` and without the column i: no one reads it any more, and `dead` takes it out.
"""

from __future__ import annotations

from graphprune.core.axes import Axis, atoms
from graphprune.core.graph import Op
from graphprune.core.groups import Dependencies
from graphprune.core.rewrites import Draft, Rewrite
from graphprune.engine.linear import Linear, linear
from graphprune.importance.twins import Twins
from graphprune.passes.couple import coupled
from graphprune.passes.rewrite import rewrite
from graphprune.pipeline import Outcome, Pass, Work


class MergeTwins(Pass):
    """Read channels that are multiples of others as those others.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: the same results; of channels that are multiples of one another, and that linear
      operations alone sum over, one is read.
    """

    name = "twins"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Merge columns of who reads twins."""
        deps = coupled(work)
        merged: dict[str, list[tuple[int, int, float]]] = {}
        number = 0
        twins = Twins(deps)
        for axis in sorted(twins.axes(), key=lambda axis: axis.id):
            readers = _readers(deps, axis)
            columns = None if readers is None else [_columns(twins, r, axis) for r in readers]
            common = set.intersection(*map(set, columns)) if columns else set()
            for one in sorted(common):
                number += 1
                for reader, found in zip(readers or (), columns or (), strict=True):
                    merged.setdefault(reader.op.name, []).append(found[one])
        if not number:
            return self.unchanged("no channel is a multiple of another")

        def merge(draft: Draft, op: Op) -> Rewrite | str | None:
            behind = linear(op, draft) if op.name in merged else None
            return _merged(op, behind, merged[op.name]) if isinstance(behind, Linear) else None

        rewrite(work, merge)
        return self.done(f"{number} channels are read as multiples of others")


def _readers(deps: Dependencies, axis: Axis) -> list[Linear] | None:
    """The linear operations that sum over an axis; None where others do, or something averages."""
    draft = Draft(deps.source)
    out = []
    for op in [*deps.source.ops, *deps.source.training]:
        effect = deps.effects[op]
        if any(axis in atoms(dim) for dim in effect.mixes):
            return None
        if any(axis in atoms(dim) for dim in effect.contracts):
            found = linear(op, draft)
            if not isinstance(found, Linear) or op in deps.source.training:
                return None
            out.append(found)
    return out


def _columns(twins: Twins, reader: Linear, axis: Axis) -> dict[int, tuple[int, int, float]]:
    """For each index that a reader can read as another: both columns and the factor."""
    source = reader.read.source
    number = reader.read.channel % len(source.shape)
    each = reader.weight.shape[2]
    places = next((at for own, at in twins.places(source, number) if own is axis), None)
    out: dict[int, tuple[int, int, float]] = {}
    if places is None:
        return out
    for one, (other, factor) in twins.pairs(source, number, axis).items():
        i, j = int(places[one]), int(places[other])
        if i // each == j // each:  # of the same group
            out[one] = (i, j, factor)
    return out


def _merged(op: Op, behind: Linear, columns: list[tuple[int, int, float]]) -> Rewrite | None:
    """The columns of twins as one; None where that is done, as on a draft that is made anew."""
    weight = behind.weight.clone()
    each = weight.shape[2]
    held = [c for c in columns if bool(weight[c[0] // each, :, c[0] % each].any())]
    if not held:
        return None
    for i, j, factor in held:
        group = i // each
        weight[group, :, j % each] += factor * weight[group, :, i % each]
        weight[group, :, i % each] = 0.0
    return Rewrite(op.name, f"twins in {op.name}", behind.steps(weight, behind.bias))


__all__ = ["MergeTwins"]
