"""materialise: weights that are made of stored numbers alone are stored as they are.

1. `torch.nn.utils.prune`: `weight_orig * weight_mask`, computed by a hook, becomes `weight`.
2. A parametrization that multiplies by numbers that it keeps is carried out and taken off.
"""

from __future__ import annotations

from graphprune.pipeline import Outcome, Pass, Work


class Materialise(Pass):
    """Multiply masks into the weights, on a copy of the model.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: the same results; no weight is computed from another and a mask of stored numbers.
    """

    name = "materialise"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Put masks into the weights that they lie over."""
        work.program, names = work.program.materialised()
        if not names:
            return self.unchanged("no masks")
        return self.done(f"{len(names)} masks are in their weights now")
