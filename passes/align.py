"""align: zeros of grouped channels come to lie at the same index of every group."""

from __future__ import annotations

from graphprune.core.graph import Op
from graphprune.core.rewrites import Draft, Rewrite
from graphprune.importance.misplaced import orders
from graphprune.passes.couple import coupled
from graphprune.passes.rewrite import rewrite
from graphprune.pipeline import Outcome, Pass, Work


class Align(Pass):
    """Put the channels of each group in an order by which more indices of all groups can go.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: the same results; of channels in groups as many are free at one index as the group
      with the fewest free channels has.
    """

    name = "align"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Reorder weights."""
        deps = coupled(work)
        found = list(orders(deps))
        if not found:
            return self.unchanged("no zeros of groups lie at different places")
        named = {f"channels in order {number}": order for number, order in enumerate(found)}

        def reorder(draft: Draft, op: Op) -> Rewrite | None:
            done = {made.what for made in draft.made}
            for what, order in named.items():
                if order.held[0].op == op.name and what not in done:
                    return Rewrite(op.name, what, order.steps(draft))
            return None

        rewrite(work, reorder)
        return self.done(f"{sum(order.gain for order in found)} more indices can go")


__all__ = ["Align"]
