"""keyed: whether code makes the tables that a choice cuts of the new widths.

A table that code makes once (of a width, behind a cache or in a dictionary) is a constant of the
captured graph. The smaller module makes its own, of the new width, with other numbers than those
that are left of the old one, unless they are the same for every index.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphprune.core.axes import Dim, length
from graphprune.core.cuts import Cuts
from graphprune.core.errors import GraphPruneError
from graphprune.core.graph import Value
from graphprune.core.relations import Mismatch
from graphprune.frontends.torch.captured import CapturedModule
from graphprune.frontends.torch.compare import compare
from graphprune.frontends.torch.lower import lower
from graphprune.frontends.torch.survey import Survey


def hold_tables(captured: CapturedModule, found: Survey) -> None:
    """See whether the smaller module's code makes the tables that a choice leaves.

    Where it makes others, the module is reported, and the lengths that it makes them of should
    stay. Nothing is run where no table is cut.

    Args:
        captured: The captured model.
        found: What its code can express; modified.
    """
    tables = dict(_cut(captured, found.cuts))
    if not tables or found.offenders:
        return
    found.follows = False  # the weights alone do not decide
    try:
        compare(captured, found.cuts, lower(captured, found))
    except GraphPruneError:
        for op in captured.graph.ops:
            for table in tables.keys() & set(op.inputs):
                found.offenders.setdefault(op.module, "its code makes another table of a new width")
                found.mismatches += [Mismatch(dim, length(dim), ()) for dim in tables[table]]


def _cut(captured: CapturedModule, cuts: Cuts) -> Iterator[tuple[Value, list[Dim]]]:
    """Constants that lose indices, and the dimensions in which they do."""
    for value in captured.graph.weights.values():
        if value.kind == "constant":
            kept = zip(cuts.deps.dims[value], cuts.kept(value), strict=True)
            dims = [dim for dim, left in kept if left is not None]
            if dims:
                yield value, dims
