"""fold_norms: scales and shifts by stored numbers go into the operations beside them.

`y = s x + t`, with a number for each channel, is what a batch norm does in inference
(`s = g / sqrt(v + e)`, `t = b - m s`; Ioffe & Szegedy, 2015, algorithm 2), a layer scale (Touvron
et al., 2021), and every sum or product with a stored vector.

1. In front of it, if need be behind operations that only move elements, a linear operation
   `x = W u + b` that nothing else reads: `y = (s W) u + (s b + t)`, s along the outputs (Jacob et
   al., 2018, equation 14).
2. In front of it another scale and shift that nothing else reads: `s' (s x + t) + t'` is one, where
   one of the two can hold it; where it is a sum behind a linear operation, this takes s s'.
3. Behind it linear operations alone: `W y + b = (W s) x + (b + W t)`, s along the channels; exact
   unless t is padded with zeros.
4. The gain and the offset of any other norm go into what is behind it in the same way, if the model
   does not grow.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphprune.core.graph import Op, Value
from graphprune.core.rewrites import Draft, Drop, Rewrite, Step, Weigh
from graphprune.engine.linear import Linear, border, linear
from graphprune.engine.scales import Scale, carried, scale_of
from graphprune.passes.rewrite import rewritten
from graphprune.pipeline import Outcome, Pass, Work
from graphprune.rules.scalings import affine, is_norm


class FoldNorms(Pass):
    """Fold scales and shifts into the operations beside them.

    - Requires: a captured model; nothing found of it yet.
    - Ensures: the same results; no norm is left that could be folded, but for those it names, with
      the reason.
    """

    name = "fold_norms"
    prepares = True

    def run(self, work: Work) -> Outcome:
        """Fold until there is nothing left to fold."""
        return rewritten(work, fold, "folded", "fold")


def fold(draft: Draft, op: Op) -> Rewrite | str | None:
    """The rewrite that folds one operation; why it cannot be folded, None for what folds nowhere.

    Args:
        draft: The graph.
        op: The operation.
    """
    scale = scale_of(draft, op)
    if scale is None:
        return _gains(draft, op)
    reasons: list[str] = []
    for way in (_into_front, _into_scale, _into_readers):
        found = way(draft, scale)
        if isinstance(found, Rewrite):
            return found
        if found:
            reasons.append(found)
    if not is_norm(op):
        return None
    return "; ".join(reasons) or "nothing beside it is linear"


def _into_front(draft: Draft, scale: Scale) -> Rewrite | str | None:
    source, channel = scale.found.source, scale.found.channel
    maker = draft.makers().get(source)
    before = None if maker is None else linear(maker, draft)
    if maker is not None and before is None:
        moved = carried(draft, source, channel)
        if moved is None:
            return None
        source, channel = moved
        maker = draft.makers().get(source)
        before = None if maker is None else linear(maker, draft)
    if maker is None or before is None:
        return None
    if isinstance(before, str):
        return f"{maker.name}: {before}"
    why = _alone(draft, scale.found.source, maker) or _alone(draft, source, maker)
    if why or not before.read.ends:
        return why or f"an activation lies between it and {maker.name}"
    if channel is not None and channel != before.result()[1]:
        return f"it scales another dimension than the outputs of {maker.name}"
    old = torch.zeros(()).to(scale.scale) if before.bias is None else before.bias
    bias = (old * scale.scale + scale.shift).expand(before.outputs)
    if not before.takes_bias(bias):
        return f"{maker.name} takes no bias"
    steps = before.steps(before.weight * before.over_outputs(scale.scale), bias)
    return _folded(scale, maker.name, steps)


def _folded(scale: Scale, into: str, steps: Sequence[Step]) -> Rewrite:
    op = scale.op.name
    return Rewrite(op, f"{op} into {into}", (*steps, Drop(op, scale.found.place)))


def _alone(draft: Draft, value: Value, maker: Op) -> str:
    """Why the result of an operation cannot change: others read it."""
    readers = draft.readers()[value]
    if None in readers:
        return f"the model returns what {maker.name} makes"
    return f"others read what {maker.name} makes" if len(readers) > 1 else ""


def _into_scale(draft: Draft, scale: Scale) -> Rewrite | str | None:
    """Make one of two scales and shifts in a row."""
    maker = draft.makers().get(scale.found.source)
    before = None if maker is None else scale_of(draft, maker)
    if maker is None or before is None or _alone(draft, scale.found.source, maker):
        return None
    at, to = before.found.channel, scale.found.channel
    if at is not None and to is not None and at != to:
        return None
    both = scale.scale * before.scale, scale.scale * before.shift + scale.shift
    if not (to is not None and at is None):
        steps = before.steps(*both)
        if steps is not None:
            return _folded(scale, maker.name, steps)
    if not (at is not None and to is None):
        steps = scale.steps(*both)
        if steps is not None:
            gone = Drop(maker.name, before.found.place)
            what = f"{maker.name} into {scale.op.name}"
            return Rewrite(scale.op.name, what, (*steps, gone))
    return _around_shift(draft, scale, before)


def _around_shift(draft: Draft, scale: Scale, before: Scale) -> Rewrite | None:
    """Where a sum lies between a linear operation and a scale, the former takes the scale."""
    maker = draft.makers().get(before.found.source)
    found = None if maker is None else linear(maker, draft)
    if not isinstance(found, Linear) or not found.read.ends or not bool((before.scale == 1).all()):
        return None
    if _alone(draft, before.found.source, found.op):
        return None
    to = scale.found.channel
    if to is not None and to != found.result()[1]:
        return None
    shift = before.steps(before.scale, scale.scale * before.shift + scale.shift)
    if shift is None:
        return None
    bias = None if found.bias is None else found.bias * scale.scale
    steps = found.steps(found.weight * found.over_outputs(scale.scale), bias)
    return _folded(scale, found.op.name, (*steps, *shift))


def _into_readers(draft: Draft, scale: Scale) -> Rewrite | str | None:
    result = scale.op.outputs[0]
    steps = _taken(draft, result, scale.found.channel, scale.scale, scale.shift)
    if not isinstance(steps, list):
        return steps
    names = ", ".join(dict.fromkeys(step.op for step in steps))
    return _folded(scale, names, steps)


def _taken(
    draft: Draft, result: Value, channel: int | None, scale: torch.Tensor, shift: torch.Tensor
) -> list[Step] | str | None:
    """How all who read a value take its scale and shift; why they do not, None if not linear."""
    steps: list[Step] = []
    seen: set[str] = set()
    for reader in draft.readers().get(result, [None]):
        behind = None if reader is None else linear(reader[0], draft)
        if reader is None or behind is None:
            return None
        name = reader[0].name
        if isinstance(behind, str):
            return f"{name}: {behind}"
        if name in seen:
            return f"{name} reads it twice"
        why = _readable(draft, behind, result, channel, shift)
        if why:
            return why
        scaled = behind.weight * behind.over_channels(scale)
        shifted = behind.weight * behind.over_channels(shift)
        added = shifted.flatten(2).sum(2).reshape(-1)
        bias = added if behind.bias is None else added + behind.bias
        if not behind.takes_bias(bias):
            return f"{name} takes no bias"
        steps += behind.steps(scaled, bias)
        seen.add(name)
    return steps


def _readable(
    draft: Draft, behind: Linear, result: Value, channel: int | None, shift: torch.Tensor
) -> str:
    """Why a linear operation cannot take a scale and a shift of what it reads."""
    name, read = behind.op.name, behind.read
    if read.source is not result:
        return f"{name} reads it as a weight"
    if channel is not None and channel != read.channel % len(result.shape):
        return f"it scales another dimension than the channels of {name}"
    if bool(shift.any()) and (why := border(behind.op, read, draft.source.engine)):
        return f"{name} cannot take the shift: {why}"
    return ""


def _gains(draft: Draft, op: Op) -> Rewrite | str | None:
    """Give the gain and the offset of a norm to who reads it."""
    known = affine(op)
    if known is None:
        return None
    place, offset, channel = known
    tensors = [None if at is None else op.inputs[at] for at in (place, offset)]
    gain, shift = (None if v is None else v.tensor for v in tensors)
    if gain is None or (offset is not None and shift is None):
        return None
    gain = gain.detach().double()
    shift = torch.zeros_like(gain) if shift is None else shift.detach().double()
    steps = _taken(draft, op.outputs[0], channel, gain, shift)
    if not isinstance(steps, list):
        return steps
    taken = [Weigh(op.name, at, None) for at in (place, offset) if at is not None]
    before = sum(v.tensor.numel() for v in tensors if v is not None)
    added = [s for s in steps if isinstance(s, Weigh) and _absent(draft, s)]
    if sum(s.tensor.numel() for s in added if s.tensor is not None) > before:
        return "its offset would become biases that its readers lack"
    return Rewrite(op.name, f"the gain of {op.name} into its readers", (*steps, *taken))


def _absent(draft: Draft, step: Weigh) -> bool:
    op = next(op for op in draft.ops if op.name == step.op)
    return step.place >= len(op.inputs) or op.inputs[step.place] is None


__all__ = ["FoldNorms", "fold"]
