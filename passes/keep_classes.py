"""keep_classes: what the passes behind it fold needs no generated code."""

from __future__ import annotations

from graphprune.pipeline import Outcome, Pass, Work


class KeepClasses(Pass):
    """Let passes change the model only where the caller's own classes are kept.

    A fold into the layer beside it leaves an `nn.Identity` in place of a norm; a sum that code
    writes down cannot go without other code. Where branches become one, a linear operation goes or
    a norm: that is worth other code for their block, if its own code does not run without them.
    Files have no code.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: passes that change the model generate no code for it, but for merged branches.
    """

    name = "keep_classes"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Say so to the passes behind it."""
        work.codes = False
        return self.unchanged("code is generated for merged branches alone")


__all__ = ["KeepClasses"]
