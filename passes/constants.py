"""constants: channels that are one number for every input go into the biases of their readers.

`W x + b` with a channel c of x that is k for every input is the same as without the column c of W
and with `W[:, c] k` added to b; over the taps of a window too, unless places at a border are padded
with zeros. The channel is read no more then, and `dead` takes it out.
"""

from __future__ import annotations

import numpy as np
import torch

from graphprune.core.graph import Op
from graphprune.core.indices import holdings
from graphprune.core.rewrites import Draft, Rewrite
from graphprune.engine.linear import Linear, linear
from graphprune.importance.free import Free
from graphprune.passes.couple import couple
from graphprune.passes.rewrite import rewrite
from graphprune.pipeline import Outcome, Pass, Work


class Constants(Pass):
    """Fold channels that are constant into the biases of who reads them.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: the same results; every constant channel all of whose readers can take it is read by
      none of them. Readers that cannot are named with the reason.
    """

    name = "constants"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Fold what makes an index free that was not."""
        deps = couple(work.program.graph, work.asked.keep)
        free = Free(deps)
        known, before = free.constant(), free.found()
        gains = {
            axis: mask & ~before.get(axis, np.zeros_like(mask)) for axis, mask in known.items()
        }
        columns: dict[str, torch.Tensor] = {}
        numbers: dict[str, torch.Tensor] = {}
        for op in deps.source.ops if any(mask.any() for mask in gains.values()) else ():
            behind, found = free.linear(op), free.numbers(op)
            if found is None or not isinstance(behind, Linear):
                continue
            dim = deps.dims[behind.read.source][behind.read.channel % len(behind.read.source.shape)]
            going = torch.zeros_like(found[0])
            for axis, positions, owners in holdings(dim):
                if axis in gains:
                    going[torch.as_tensor(positions[gains[axis][owners]])] = True
            if bool(going.any()):
                columns[op.name] = going & found[0]
                numbers[op.name] = torch.where(columns[op.name], found[1].double(), 0.0)
        work.left |= free.left
        if not columns:
            return self.unchanged("no constant channel is read")

        def fold(draft: Draft, op: Op) -> Rewrite | str | None:
            if op.name not in columns:
                return None
            behind = linear(op, draft)
            if not isinstance(behind, Linear):
                return behind
            return _folded(op, behind, columns[op.name], numbers[op.name])

        number = rewrite(work, fold)
        note = f"{number} operations take constants into their biases"
        return self.done(note) if number else self.unchanged(note)


def _folded(op: Op, behind: Linear, columns: torch.Tensor, numbers: torch.Tensor) -> Rewrite | None:
    """The rewrite that takes columns out of a linear operation; None where they are out."""
    device = behind.weight.device
    gone = behind.over_channels(columns.to(device))
    taken = torch.where(gone, behind.weight, 0.0)
    if not bool(taken.any()):
        return None
    added = (taken * behind.over_channels(numbers.to(device))).flatten(2).sum(2).reshape(-1)
    bias = added if behind.bias is None else behind.bias + added
    steps = behind.steps(torch.where(gone, 0.0, behind.weight), bias)
    return Rewrite(op.name, f"constants into the bias of {op.name}", steps)


__all__ = ["Constants"]
