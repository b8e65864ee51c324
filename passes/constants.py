"""constants: channels that are one number for every input go into the biases of their readers.

`W x + b` with a channel c of x that is k for every input is the same as without the column c of W
and with `W[:, c] k` added to b; over the taps of a window too, unless places at a border are padded
with zeros. The channel is read no more then, and `dead` takes it out.

A branch all of whose channels are constant is a stored number for each of them where a sum reads
it, and where they are all zero the sum goes: in files, and where no code has to be generated.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from graphprune.core.axes import Axis
from graphprune.core.graph import Op
from graphprune.core.groups import Dependencies
from graphprune.core.indices import holdings
from graphprune.core.rewrites import Draft, Drop, Rewrite, Weigh
from graphprune.engine.linear import Linear, linear
from graphprune.importance.freedom import Free, Mask
from graphprune.passes.couple import coupled
from graphprune.passes.rewrite import place, rewrite
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.rules.facts import adds


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
        deps = coupled(work)
        free = work.freedom(deps)
        known, before = free.constant(), free.found
        gains = {
            axis: mask & ~before.get(axis, np.zeros_like(mask)) for axis, mask in known.items()
        }
        number = fold_constants(work, deps, free, gains)
        if not number:
            return self.unchanged("no constant channel is read")
        return self.done(f"{number} operations take constants")


def fold_constants(work: Work, deps: Dependencies, free: Free, gains: Mapping[Axis, Mask]) -> int:
    """Fold constant channels into the biases of who reads them, and note who cannot.

    Args:
        work: The work.
        deps: The analysis of its program.
        free: What is known of it.
        gains: The indices that are to be read no more.

    Returns:
        How many operations are changed.
    """
    columns, numbers = _taken(deps, free, gains)
    where = {op.name: place(op) for op in deps.source.ops}
    work.left |= {where.get(name, name): why for name, why in free.left.items()}

    def fold(draft: Draft, op: Op) -> Rewrite | str | None:
        if op.name not in columns:
            return _settled(free, op)
        behind = linear(op, draft)
        if not isinstance(behind, Linear):
            return behind
        return _folded(op, behind, columns[op.name], numbers[op.name])

    return rewrite(work, fold)


def _taken(
    deps: Dependencies, free: Free, gains: Mapping[Axis, Mask]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """For each linear operation the columns that go into its bias, and the numbers it reads."""
    columns: dict[str, torch.Tensor] = {}
    numbers: dict[str, torch.Tensor] = {}
    for op in deps.source.ops if any(mask.any() for mask in gains.values()) else ():
        behind, found = free.linear(op), free.numbers(op)
        if found is None or not isinstance(behind, Linear):
            continue
        source = behind.read.source
        dim = deps.dims[source][behind.read.channel % len(source.shape)]
        going = torch.zeros_like(found[0])
        for axis, positions, owners in holdings(dim):
            if axis in gains:
                going[torch.as_tensor(positions[gains[axis][owners]])] = True
        if bool(going.any()):
            columns[op.name] = going & found[0]
            numbers[op.name] = torch.where(columns[op.name], found[1].double(), 0.0)
    return columns, numbers


def _settled(free: Free, op: Op) -> Rewrite | None:
    """The rewrite of a sum that reads a branch which is constant."""
    if not adds(op) or len(op.inputs) != 2:
        return None
    for at, value in enumerate(op.inputs):
        other, found = op.inputs[1 - at], None
        if value is not None and not value.is_weight:
            found = free.whole(value)
        if found is None or value is None or other is None or other.shape != value.shape:
            continue
        number, numbers = found
        if not bool(numbers.any()):
            return Rewrite(op.name, f"{value.name} is zero", (Drop(op.name, 1 - at),), True)
        held = numbers.reshape(-1, *[1] * (len(value.shape) - 1 - number))
        step = Weigh(op.name, at, held.to(getattr(torch, value.dtype)))
        return Rewrite(op.name, f"{value.name} is stored", (step,), slight=True)
    return None


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


__all__ = ["Constants", "fold_constants"]
