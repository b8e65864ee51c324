"""keep_classes: nothing that the passes behind it fold or merge may need generated code."""

from __future__ import annotations

from graphprune.pipeline import Outcome, Pass, Work


class KeepClasses(Pass):
    """Let passes change the model only where the caller's own classes are kept.

    A fold into the layer beside it leaves an `nn.Identity` in place of a norm; a sum that code
    writes down cannot go without other code. Files have no code.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: passes that change the model generate no code for it.
    """

    name = "keep_classes"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Say so to the passes behind it."""
        work.codes = False
        return self.unchanged("no code is generated for what is folded")


__all__ = ["KeepClasses"]
