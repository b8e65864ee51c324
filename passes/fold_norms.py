"""fold_norms: scales and shifts by stored numbers go into the linear operations beside them.

`y = s x + t`, with a number for each channel, is what a batch norm does in inference
(`s = g / sqrt(v + e)`, `t = b - m s`; Ioffe & Szegedy, 2015, algorithm 2), a layer scale (Touvron
et al., 2021), and every sum or product with a stored vector.

1. In front of it a linear operation `x = W u + b` that nothing else reads:
   `y = (s W) u + (s b + t)`, s along the outputs. (Jacob et al., 2018, eq. 14.)
2. Behind it linear operations alone: `W y + b = (W s) x + (b + W t)`, s along the channels; exact
   unless t is padded with zeros.
"""

from __future__ import annotations

import torch

from graphprune.core.graph import Op, Value
from graphprune.core.rewrites import Draft, Drop, Rewrite, Step
from graphprune.engine.linear import Linear, linear, meets_no_border, numbers
from graphprune.passes.rewrite import rewrite
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.rules.facts import Scaling, is_norm, scaling


class FoldNorms(Pass):
    """Fold scales and shifts into the linear operations beside them.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: the same results; no scale and shift is left that stands between a linear operation
      and whoever reads its result alone, but for those it names, with the reason.
    """

    name = "fold_norms"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Fold until there is nothing left to fold."""
        found = rewrite(work, fold)
        work.left |= found.left
        note = f"{len(found.made)} folded" + (f", {len(found.left)} left" if found.left else "")
        return self.done(note) if found.made else self.unchanged(note)


def fold(draft: Draft, op: Op) -> Rewrite | str | None:
    """The rewrite that folds one operation; why it cannot be folded, None for what folds nowhere.

    Args:
        draft: The graph.
        op: The operation.
    """
    found = scaling(op)
    if found is None:
        return None
    known = numbers(op, found, draft.source.engine)
    if known is None:
        return None
    front = _into_front(draft, op, found, *known)
    if isinstance(front, Rewrite):
        return front
    behind = _into_readers(draft, op, found, *known)
    if isinstance(behind, Rewrite):
        return behind
    reasons = [why for why in (front, behind) if why]
    return "; ".join(reasons) if reasons and is_norm(op) else None


def _into_front(
    draft: Draft, op: Op, found: Scaling, scale: torch.Tensor, shift: torch.Tensor
) -> Rewrite | str | None:
    maker = draft.makers().get(found.source)
    before = None if maker is None else linear(maker, draft)
    if maker is None or before is None:
        return None
    if isinstance(before, str):
        return f"{maker.name}: {before}"
    why = _alone(draft, found.source, maker)
    if why or not before.read.ends:
        return why or f"an activation lies between it and {maker.name}"
    if found.channel is not None and found.channel != before.result()[1]:
        return f"it scales another dimension than the outputs of {maker.name}"
    old = before.bias if before.bias is not None else torch.zeros(()).to(scale)
    bias = (old * scale + shift).expand(before.outputs)
    if not before.takes_bias(bias):
        return f"{maker.name} takes no bias"
    steps = before.steps(before.weight * before.over_outputs(scale), bias)
    return Rewrite(op.name, f"{op.name} into {maker.name}", (*steps, Drop(op.name, found.place)))


def _alone(draft: Draft, value: Value, maker: Op) -> str:
    """Why the result of an operation cannot change: others read it."""
    readers = draft.readers()[value]
    if None in readers:
        return f"the model returns what {maker.name} makes"
    return f"others read what {maker.name} makes" if len(readers) > 1 else ""


def _into_readers(
    draft: Draft, op: Op, found: Scaling, scale: torch.Tensor, shift: torch.Tensor
) -> Rewrite | str | None:
    result = op.outputs[0]
    steps: list[Step] = []
    names: list[str] = []
    for reader in draft.readers().get(result, [None]):
        behind = None if reader is None else linear(reader[0], draft)
        if reader is None or behind is None:
            return None
        name = reader[0].name
        if isinstance(behind, str):
            return f"{name}: {behind}"
        why = _readable(draft, behind, result, found, shift)
        if why:
            return why
        scaled = behind.weight * behind.over_channels(scale)
        shifted = behind.weight * behind.over_channels(shift)
        added = shifted.flatten(2).sum(2).reshape(-1)
        bias = added if behind.bias is None else added + behind.bias
        if not behind.takes_bias(bias):
            return f"{name} takes no bias"
        steps += behind.steps(scaled, bias)
        names.append(name)
    if len(names) != len(set(names)):
        return f"{names[0]} reads it twice"
    what = f"{op.name} into {', '.join(names)}"
    return Rewrite(op.name, what, (*steps, Drop(op.name, found.place)))


def _readable(
    draft: Draft, behind: Linear, result: Value, found: Scaling, shift: torch.Tensor
) -> str:
    """Why a linear operation cannot take a scale and a shift of what it reads."""
    name, read = behind.op.name, behind.read
    if read.source is not result:
        return f"{name} reads it as a weight"
    if found.channel is not None and found.channel != read.channel % len(result.shape):
        return f"it scales another dimension than the channels of {name}"
    if bool(shift.any()) and not meets_no_border(behind.op, read, draft.source.engine):
        return f"{name} pads with zeros, which the shift would not reach"
    return ""


__all__ = ["FoldNorms", "fold"]
