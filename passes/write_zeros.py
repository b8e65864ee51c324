"""write_zeros: the sparse weights, in the model."""

from __future__ import annotations

import torch

from graphprune.core.errors import PassError
from graphprune.core.graph import Value
from graphprune.core.within import Mask
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.sparsity.zeros import fitted


class WriteZeros(Pass):
    """Set the masked numbers to zero, and give the others the values that make up for them.

    - Requires: a copy of the model from which no index has gone, and masks among the edits.
    - Ensures: the model holds a zero wherever a mask says so, and every other number as it was
      solved for.
    """

    name = "write_zeros"
    requires = ("choice", "lowered")
    ensures = ("lowered",)
    makes = True

    def before(self, work: Work) -> None:
        """Masks are in the shapes of the original's weights."""
        if work.selection.keep and masks_of(work):
            raise PassError(
                "masks and fewer channels in one plan: sparsify the smaller model, "
                "graphprune.sparsify(graphprune.shrink(model))"
            )

    def run(self, work: Work) -> Outcome:
        """Solve again where the masks are not those that were solved for."""
        masks = masks_of(work)
        if not masks:
            return self.unchanged("no mask")
        made = work.pruned
        if made is None or not _same(made.kept, masks):
            made = work.pruned = fitted(work.deps, masks, work.statistics())
        work.lowered = work.program.write(work.expressed, work.lowered, made.values)
        number = sum(int((~kept).sum()) for kept in masks.values())
        return self.done(f"{number:,} zeros")

    def after(self, work: Work) -> None:
        """The model holds what was solved for, and zeros where the masks say."""
        masks = masks_of(work)
        if work.pruned is None or not masks:
            return
        held = work.program.stored(work.lowered, work.pruned.values.keys())
        for value, wanted in work.pruned.values.items():
            found = held.get(value)
            if found is None or not torch.equal(found.detach().to(wanted), wanted):
                raise PassError(f"{value.name} was not written")
            kept = masks.get(value)
            if kept is not None and bool(found.detach().cpu()[~kept].any()):
                raise PassError(f"{value.name} is not zero where its mask says so")


def masks_of(work: Work) -> dict[Value, torch.Tensor]:
    """Which numbers of each weight stay, by the edits."""
    return {
        edit.find(work.deps): torch.as_tensor(edit.kept)
        for edit in work.edits
        if isinstance(edit, Mask)
    }


def _same(one: dict[Value, torch.Tensor], other: dict[Value, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(kept.cpu(), other[value]) for value, kept in one.items()
    )
